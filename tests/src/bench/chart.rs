//! What [`cost`](super::cost) has measured, as a picture: an SVG that follows the reader's choice of
//! light or dark, and needs nothing but itself.
//!
//! A block for each load, a bar for each server, the cheapest first. Bars of a block can be compared;
//! one that would leave it is cut, and its number says how long it were.

use std::fmt::Write;

use serde_json::Value;

use super::cost::loads::LOADS;

const WIDTH: f64 = 860.0;
const COLUMNS: usize = 2;
const GAP: f64 = 40.0;
const MARGIN: f64 = 16.0;
const HEAD: f64 = 64.0;
const TITLE: f64 = 26.0;
const ROW: f64 = 19.0;
const BAR: f64 = 12.0;
/// For names, and for the number behind a bar.
const NAME: f64 = 100.0;
const NUMBER: f64 = 48.0;
/// Longer than this many times baton's no bar is.
const LONGEST: f64 = 4.0;

const STYLE: &str = "
text { font: 12px system-ui, -apple-system, 'Segoe UI', Helvetica, Arial, sans-serif; fill: #1f2328 }
.big { font-size: 15px; font-weight: 600 }
.title { font-weight: 600 }
.dim { fill: #59636e }
.number { font-variant-numeric: tabular-nums }
.mine { font-weight: 600 }
rect { fill: #afb8c1 }
rect.mine { fill: #0969da }
rect.floor { fill: none; stroke: #818b98; stroke-dasharray: 3 2 }
.cut { fill: none; stroke: #ffffff; stroke-width: 3 }
@media (prefers-color-scheme: dark) {
text { fill: #e6edf3 }
.dim { fill: #9198a1 }
rect { fill: #59636e }
rect.mine { fill: #4493f8 }
rect.floor { fill: none; stroke: #9198a1 }
.cut { stroke: #0d1117 }
}
";

/// One load, and what everybody costs there.
struct Block {
    title: &'static str,
    bars: Vec<(String, f64)>,
}

impl Block {
    fn height(&self) -> f64 {
        TITLE + ROW * self.bars.len() as f64 + 14.0
    }
}

/// Draws what is in `figures`, as `--json` writes them.
pub fn draw(figures: &Value) -> String {
    let blocks = blocks(figures);
    // Filled from the top, the shorter column first.
    let mut heights = [HEAD; COLUMNS];
    let mut drawn = String::new();
    let width = (WIDTH - 2.0 * MARGIN - GAP) / COLUMNS as f64;
    for block in &blocks {
        let column = usize::from(heights[0] > heights[1]);
        let x = MARGIN + column as f64 * (width + GAP);
        draw_block(block, x, heights[column], width, &mut drawn);
        heights[column] += block.height();
    }
    let height = heights[0].max(heights[1]) + 8.0;
    let mut svg = String::new();
    let _ = write!(
        svg,
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{height}\" \
         viewBox=\"0 0 {WIDTH} {height}\" role=\"img\" aria-label=\"processor time by server\">\n\
         <style>{STYLE}</style>\n\
         <text x=\"{MARGIN}\" y=\"24\" class=\"big\">Processor time, in microseconds: less is better</text>\n\
         <text x=\"{MARGIN}\" y=\"44\" class=\"dim\">of all processes of a server together; \
         dashed: a bare loop that can do nothing else</text>\n{drawn}</svg>\n"
    );
    svg
}

fn blocks(figures: &Value) -> Vec<Block> {
    let tables = figures["cost"].as_array().into_iter().flatten();
    let rows: Vec<&Value> = tables
        .flat_map(|table| table["rows"].as_array().into_iter().flatten())
        .collect();
    let blocks = LOADS.iter().map(|load| {
        let rows = rows.iter().filter(|row| row["load"] == load.name);
        let bar = |row: &&Value| {
            let cost = row["CPU s/million"].as_f64()?;
            Some((row["server"].as_str()?.to_owned(), cost))
        };
        let mut bars: Vec<(String, f64)> = rows.filter_map(bar).collect();
        bars.sort_by(|one, other| one.1.total_cmp(&other.1));
        Block {
            title: load.about,
            bars,
        }
    });
    blocks.filter(|block| !block.bars.is_empty()).collect()
}

fn draw_block(block: &Block, x: f64, y: f64, width: f64, svg: &mut String) {
    let baton = block.bars.iter().find(|(name, _)| name == "baton");
    let most = block.bars.last().map_or(1.0, |(_, cost)| *cost);
    let most = baton.map_or(most, |(_, cost)| most.min(cost * LONGEST));
    let room = width - NAME - NUMBER;
    let title = y + 16.0;
    let _ = writeln!(
        svg,
        "<text x=\"{x}\" y=\"{title}\" class=\"title\">{}</text>",
        block.title
    );
    let left = x + NAME;
    for (number, (name, cost)) in block.bars.iter().enumerate() {
        let class = match name.as_str() {
            "baton" => "mine",
            "bare" => "floor",
            _ => "other",
        };
        let top = y + TITLE + ROW * number as f64;
        let base = top + BAR - 1.5;
        let long = cost.min(most) / most * room;
        let end = left + long + 6.0;
        let _ = writeln!(
            svg,
            "<text x=\"{:.1}\" y=\"{base:.1}\" text-anchor=\"end\" class=\"{class}\">{name}</text>\
             <rect x=\"{left:.1}\" y=\"{top:.1}\" width=\"{long:.1}\" height=\"{BAR}\" rx=\"2\" class=\"{class}\"/>\
             <text x=\"{end:.1}\" y=\"{base:.1}\" class=\"number {class}\">{}</text>",
            left - 8.0,
            shown(*cost),
        );
        if *cost > most {
            let (at, bottom) = (left + long - 14.0, top + BAR);
            let _ = writeln!(
                svg,
                "<path d=\"M{:.1} {bottom:.1} L{:.1} {top:.1}\" class=\"cut\"/>",
                at - 3.0,
                at + 3.0
            );
        }
    }
}

fn shown(cost: f64) -> String {
    match cost {
        ..1.0 => format!("{cost:.2}"),
        1.0..100.0 => format!("{cost:.1}"),
        _ => format!("{cost:.0}"),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_was_measured_is_drawn() {
        let row = |server: &str, cost: Option<f64>| json!({ "load": "echo-20", "server": server, "CPU s/million": cost });
        let figures = json!({ "cost": [
            { "rows": [row("baton", Some(4.0)), row("uws", None)] },
            { "rows": [row("bare", Some(3.5)), row("ws", Some(40.0))] },
        ]});
        let svg = draw(&figures);
        assert_eq!(svg.matches("<rect").count(), 3);
        assert_eq!(svg.matches("class=\"cut\"").count(), 1);
        let at = |text: &str| svg.find(text).unwrap();
        assert!(at(">bare<") < at(">baton<") && at(">baton<") < at(">ws<"));
        assert!(svg.contains(">40.0<") && !svg.contains(">uws<"));
    }
}
