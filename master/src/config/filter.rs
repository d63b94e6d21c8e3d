//! `[[filter]]`: words that are not to be said. The lists are read here, so that `check` says what is
//! wrong with them, and no worker ever opens a file.

use std::path::Path;

use protocol::settings::{Filter, Filtered, Words};
use protocol::words::HALF;
use rustc_hash::FxHasher;

use super::reader::Section;

const MAX_FILTERS: usize = 16;

/// Words in all lists: a worker needs about 10 µs for each of them before it serves.
const MAX_WORDS: usize = 100_000;

const THEN: [(&str, Option<Filtered>); 3] = [
    ("reject", Some(Filtered::Reject)),
    ("mask", Some(Filtered::Mask)),
    ("hold", Some(Filtered::Hold)),
];

/// All filters, and their lists, one behind the other: each filter says where its own is.
pub fn filters(s: &mut Section<'_, '_>) -> (Vec<Filter>, Vec<u8>) {
    let read = s.sections("filter", filter).unwrap_or_default();
    let (mut filters, mut lists) = (Vec::new(), Vec::new());
    for (filter, list) in read.into_iter().flatten() {
        let words = Words {
            at: lists.len() as u32,
            len: list.len() as u32,
            sum: sum(&list),
        };
        filters.push(Filter { words, ..filter });
        lists.extend_from_slice(&list);
    }
    if filters.len() > MAX_FILTERS {
        s.wrong("filter", format!("there may be {MAX_FILTERS} of them"));
    }
    let words = lists.iter().filter(|byte| **byte == b'\n').count();
    if words > MAX_WORDS {
        s.wrong(
            "filter",
            format!("there may be {MAX_WORDS} words in all lists, and these are {words}"),
        );
    }
    if lists.len() > HALF {
        let most = HALF >> 20;
        s.wrong(
            "filter",
            format!("the lists of words must not be more than {most} MiB in all"),
        );
        lists.truncate(HALF);
    }
    (filters, lists)
}

/// `None`: something is wrong with it, and has been said.
fn filter(s: &mut Section<'_, '_>) -> Option<(Filter, Vec<u8>)> {
    let rooms = s.pattern("match");
    let then = s.choice("do", None, &THEN);
    let file = s.path("words");
    let whole_words = s.flag("whole_words", false);
    for key in ["match", "do", "words"] {
        if !s.has(key) {
            s.wrong(key, "is missing");
        }
    }
    let (rooms, then, file) = (rooms?, then?, file?);
    match list(&file) {
        Ok(list) => Some((
            Filter {
                rooms,
                then,
                whole_words,
                words: Words::default(),
            },
            list,
        )),
        Err(fault) => {
            s.wrong("words", format!("{}: {fault}", file.display()));
            None
        }
    }
}

/// A file's words, one a line; what is no word is left out.
fn list(file: &Path) -> Result<Vec<u8>, String> {
    let size = std::fs::metadata(file).map(|found| found.len());
    if size.map_err(|error| error.to_string())? > HALF as u64 {
        return Err(format!("must not be more than {} MiB", HALF >> 20));
    }
    let bytes = std::fs::read(file).map_err(|error| error.to_string())?;
    let text = match String::from_utf8(bytes) {
        Ok(text) => text,
        Err(error) => {
            let good = &error.as_bytes()[..error.utf8_error().valid_up_to()];
            let line = good.iter().filter(|byte| **byte == b'\n').count() + 1;
            return Err(format!("line {line} is not UTF-8"));
        }
    };
    let mut list = String::with_capacity(text.len());
    let text = text.strip_prefix('\u{feff}').unwrap_or(&text);
    for word in text.lines().map(str::trim).filter(|word| !word.is_empty()) {
        list.push_str(word);
        list.push('\n');
    }
    Ok(list.into_bytes())
}

/// By which a list is known from another of the same length.
fn sum(list: &[u8]) -> u64 {
    use std::hash::Hasher;
    let mut hasher = FxHasher::default();
    hasher.write(list);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_is_its_words() {
        let path = std::env::temp_dir().join(format!("baton-words-{}", std::process::id()));
        let read = |bytes: &[u8]| {
            std::fs::write(&path, bytes).unwrap();
            list(&path)
        };
        let words = "\u{feff}  one \r\n\n\ttwo words\n弾幕".as_bytes();
        assert_eq!(read(words).unwrap(), "one\ntwo words\n弾幕\n".as_bytes());
        assert_eq!(read(b"a\nb\n\xff").unwrap_err(), "line 3 is not UTF-8");
        let large = vec![b'x'; HALF + 1];
        assert!(read(&large).unwrap_err().contains("4 MiB"));
        std::fs::remove_file(&path).unwrap();
        assert!(list(&path).unwrap_err().contains("No such file"));
    }
}
