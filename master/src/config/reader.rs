//! Reads the keys of a TOML file one by one, each with its default, and collects all that is wrong
//! with them: a value that is not allowed is said and its default taken, so that the next error is
//! found too. (serde would stop at the first one.)

use std::collections::BTreeMap;
use std::ops::{Range, RangeInclusive};
use std::path::{Path, PathBuf};

use protocol::pattern::Pattern;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::units::{duration_ms, show_duration, show_size, size};
use super::{Errors, MAX_WORKERS};

/// What is wrong so far, and where everything was.
#[derive(Debug)]
pub struct Report<'t> {
    file: &'t str,
    text: &'t str,
    /// Line (0: none) and what is wrong there.
    errors: Vec<(usize, String)>,
    /// Keys that were asked for and that the file has, as `table.key`, and their first line.
    pub(super) lines: BTreeMap<String, usize>,
    /// All keys that were asked for.
    #[cfg(test)]
    pub(super) asked: Vec<String>,
}

impl<'t> Report<'t> {
    pub fn new(file: &'t str, text: &'t str) -> Self {
        Report {
            file,
            text,
            errors: Vec::new(),
            lines: BTreeMap::new(),
            #[cfg(test)]
            asked: Vec::new(),
        }
    }

    /// The file as a table; if it is no TOML, all that the parser has to say is reported.
    pub fn parse(&mut self) -> DeTable<'t> {
        let (table, errors) = DeTable::parse_recoverable(self.text);
        if errors.is_empty() {
            return table.into_inner();
        }
        for error in errors {
            let at = error.span().unwrap_or(0..0);
            let message = error.message().lines().collect::<Vec<_>>().join("; ");
            self.add(self.line(&at), message);
        }
        DeTable::new()
    }

    /// Something is wrong with these keys together: said at the first of them that the file has.
    pub fn wrong(&mut self, keys: &[&str], message: impl AsRef<str>) {
        let at = keys.iter().find(|key| self.lines.contains_key(**key));
        let key = at.or(keys.first()).copied().unwrap_or_default();
        self.wrong_at(self.lines.get(key).copied(), key, message);
    }

    /// Something is wrong with `key` in this line, or with a flag.
    pub fn wrong_at(&mut self, line: Option<usize>, key: &str, message: impl AsRef<str>) {
        self.add(line.unwrap_or(0), format!("{key}: {}", message.as_ref()));
    }

    fn add(&mut self, line: usize, message: String) {
        let text = match line {
            0 if self.file.is_empty() => message,
            0 => format!("{}: {message}", self.file),
            line => format!("{}:{line}: {message}", self.file),
        };
        self.errors.push((line, text));
    }

    /// All errors in the order of the file, or none.
    pub fn finish(mut self) -> Result<(), Errors> {
        if self.errors.is_empty() {
            return Ok(());
        }
        self.errors.sort_by_key(|(line, _)| *line);
        let lines = self.errors.into_iter().map(|(_, text)| text);
        Err(Errors(lines.collect()))
    }

    fn line(&self, at: &Range<usize>) -> usize {
        let before = &self.text.as_bytes()[..at.start.min(self.text.len())];
        1 + before.iter().filter(|byte| **byte == b'\n').count()
    }

    /// The value as it was typed, if it is short and on one line.
    fn typed(&self, value: &Spanned<DeValue<'_>>) -> String {
        let kind = value.get_ref().type_str();
        match self.text.get(value.span()) {
            Some(text) if text.len() <= 60 && !text.contains('\n') => text.to_owned(),
            _ => match kind {
                "array" | "integer" => format!("an {kind}"),
                kind => format!("a {kind}"),
            },
        }
    }
}

/// One table of the file; the top is one, too.
pub struct Section<'s, 't> {
    report: &'s mut Report<'t>,
    /// What stands before its keys: empty or `http.`.
    path: String,
    /// None: the file does not have it.
    table: Option<&'s DeTable<'t>>,
    /// Its first line.
    line: usize,
    asked: Vec<&'static str>,
}

impl<'s, 't> Section<'s, 't> {
    /// Reads the file as `read` says.
    pub fn top<T>(
        report: &'s mut Report<'t>,
        table: &'s DeTable<'t>,
        read: impl FnOnce(&mut Section<'_, 't>) -> T,
    ) -> T {
        Section {
            report,
            path: String::new(),
            table: Some(table),
            line: 1,
            asked: Vec::new(),
        }
        .read(read)
    }

    fn read<T>(mut self, read: impl FnOnce(&mut Section<'_, 't>) -> T) -> T {
        let value = read(&mut self);
        self.unknown();
        value
    }

    /// Keys that nobody asked for.
    fn unknown(&mut self) {
        for key in self.table.into_iter().flat_map(DeTable::keys) {
            let name = key.get_ref().as_ref();
            if self.asked.contains(&name) {
                continue;
            }
            let advice = match similar(name, &self.asked) {
                Some(known) => format!("did you mean {known:?}?"),
                None => format!("allowed here: {}", self.asked.join(", ")),
            };
            let line = self.report.line(&key.span());
            let key = format!("{}{}", self.path, name);
            let message = format!("unknown key; {advice}");
            self.report.wrong_at(Some(line), &key, message);
        }
    }

    /// The first line of the table.
    pub fn line(&self) -> usize {
        self.line
    }

    /// The line of one of its keys, if it has that.
    pub fn line_of(&self, key: &str) -> Option<usize> {
        let (key, _) = self.table?.get_key_value(key)?;
        Some(self.report.line(&key.span()))
    }

    pub fn has(&self, key: &str) -> bool {
        self.table.is_some_and(|table| table.contains_key(key))
    }

    /// Something is wrong with this key, whether it is there or not.
    pub fn wrong(&mut self, key: &str, message: impl AsRef<str>) {
        let line = self.line_of(key).unwrap_or(self.line);
        let key = format!("{}{key}", self.path);
        self.report.wrong_at(Some(line), &key, message);
    }

    fn get(&mut self, key: &'static str) -> Option<&'s Spanned<DeValue<'t>>> {
        self.asked.push(key);
        let name = format!("{}{key}", self.path);
        #[cfg(test)]
        self.report.asked.push(name.clone());
        let (typed, value) = self.table?.get_key_value(key)?;
        let line = self.report.line(&typed.span());
        self.report.lines.entry(name).or_insert(line);
        Some(value)
    }

    /// What `take` makes of the value; if nothing: it must be `allowed`.
    fn value<T>(
        &mut self,
        key: &'static str,
        default: T,
        allowed: impl FnOnce() -> String,
        take: impl FnOnce(&DeValue<'t>) -> Option<T>,
    ) -> T {
        let Some(value) = self.get(key) else {
            return default;
        };
        take(value.get_ref()).unwrap_or_else(|| {
            let typed = self.report.typed(value);
            self.wrong(key, format!("must be {}, not {typed}", allowed()));
            default
        })
    }

    pub fn number<T>(&mut self, key: &'static str, default: T, range: RangeInclusive<T>) -> T
    where
        T: Copy + PartialOrd + std::fmt::Display + TryFrom<u64>,
    {
        let allowed = || format!("a whole number from {} to {}", range.start(), range.end());
        self.value(key, default, allowed, |value| {
            let number = T::try_from(integer(value)?).ok()?;
            range.contains(&number).then_some(number)
        })
    }

    /// Which rooms are meant.
    pub fn pattern(&mut self, key: &'static str) -> Option<Pattern> {
        let example = "a name, in which * stands for any characters, such as \"chat.*\"";
        self.parsed(key, example, |text| {
            (!text.is_empty()).then(|| Pattern::new(text))
        })
    }

    /// The number of workers.
    pub fn workers(&mut self, key: &'static str, default: u16) -> u16 {
        self.number(key, default, 1..=MAX_WORKERS)
    }

    /// Bytes: a number or a text such as `"1 MiB"`.
    pub fn size<T>(&mut self, key: &'static str, default: T, range: RangeInclusive<u64>) -> T
    where
        T: TryFrom<u64>,
    {
        let (from, to) = (show_size(*range.start()), show_size(*range.end()));
        let allowed = || format!("a size from \"{from}\" to \"{to}\"");
        self.value(key, default, allowed, |value| {
            let bytes = match value {
                DeValue::String(text) => size(text)?,
                value => integer(value)?,
            };
            T::try_from(bytes).ok().filter(|_| range.contains(&bytes))
        })
    }

    /// Milliseconds: a text such as `"10s"`. (A bare number would leave open of what.)
    pub fn duration(&mut self, key: &'static str, default: u64, range: RangeInclusive<u64>) -> u64 {
        let (from, to) = (show_duration(*range.start()), show_duration(*range.end()));
        let allowed = || format!("a duration from \"{from}\" to \"{to}\"");
        self.value(key, default, allowed, |value| {
            let ms = duration_ms(value.as_str()?)?;
            range.contains(&ms).then_some(ms)
        })
    }

    pub fn flag(&mut self, key: &'static str, default: bool) -> bool {
        let allowed = || "true or false".to_owned();
        self.value(key, default, allowed, DeValue::as_bool)
    }

    /// One of a few words.
    pub fn choice<T: Copy>(&mut self, key: &'static str, default: T, words: &[(&str, T)]) -> T {
        let allowed = || {
            let words: Vec<_> = words.iter().map(|(word, _)| format!("{word:?}")).collect();
            match words.split_last() {
                Some((last, rest)) if !rest.is_empty() => format!("{} or {last}", rest.join(", ")),
                _ => words.concat(),
            }
        };
        self.value(key, default, allowed, |value| {
            let text = value.as_str()?;
            let (_, is) = words.iter().find(|(word, _)| *word == text)?;
            Some(*is)
        })
    }

    /// A text that is not empty; its default is that there is none.
    pub fn text(&mut self, key: &'static str) -> Option<String> {
        let allowed = || "a text that is not empty".to_owned();
        self.value(key, None, allowed, |value| {
            let text = value.as_str().filter(|text| !text.is_empty())?;
            Some(Some(text.to_owned()))
        })
    }

    /// The name of a file. What is relative is so to where the configuration is.
    pub fn path(&mut self, key: &'static str) -> Option<PathBuf> {
        let name = self.text(key)?;
        Some(self.directory().join(&name))
    }

    /// Where the configuration is.
    pub fn directory(&self) -> PathBuf {
        let directory = Path::new(self.report.file).parent();
        directory.unwrap_or(Path::new("")).to_owned()
    }

    /// What `parse` makes of a text; `None`: it is not there or wrong.
    pub fn parsed<T>(
        &mut self,
        key: &'static str,
        allowed: &str,
        parse: impl FnOnce(&str) -> Option<T>,
    ) -> Option<T> {
        let allowed = || allowed.to_owned();
        self.value(key, None, allowed, |value| {
            Some(Some(parse(value.as_str()?)?))
        })
    }

    /// A list of texts; `parse` says what is wrong with one.
    pub fn list<T>(
        &mut self,
        key: &'static str,
        default: Vec<T>,
        parse: impl Fn(&str) -> Result<T, String>,
    ) -> Vec<T> {
        let Some(value) = self.get(key) else {
            return default;
        };
        let Some(items) = value.get_ref().as_array() else {
            let typed = self.report.typed(value);
            self.wrong(key, format!("must be a list of texts, not {typed}"));
            return default;
        };
        let mut list = Vec::new();
        for item in items.iter() {
            let parsed = match item.get_ref().as_str() {
                Some(text) => parse(text),
                None => Err(format!("must hold texts, not {}", self.report.typed(item))),
            };
            match parsed {
                Ok(one) => list.push(one),
                Err(message) => {
                    let line = self.report.line(&item.span());
                    let key = format!("{}{key}", self.path);
                    self.report.wrong_at(Some(line), &key, message);
                }
            }
        }
        list
    }

    /// A table.
    pub fn section<T>(
        &mut self,
        key: &'static str,
        read: impl FnOnce(&mut Section<'_, 't>) -> T,
    ) -> T {
        let table = match self.get(key) {
            Some(value) if value.get_ref().is_table() => value.get_ref().as_table(),
            Some(value) => {
                let typed = self.report.typed(value);
                self.wrong(key, format!("must be a table, [{key}], not {typed}"));
                None
            }
            None => None,
        };
        self.inner(key, table, self.line_of(key).unwrap_or(self.line), read)
    }

    /// A list of tables; `None`: it is not there.
    pub fn sections<T>(
        &mut self,
        key: &'static str,
        mut read: impl FnMut(&mut Section<'_, 't>) -> T,
    ) -> Option<Vec<T>> {
        let value = self.get(key)?;
        let tables = match value.get_ref().as_array() {
            Some(items) => items
                .iter()
                .map(|item| Some((self.report.line(&item.span()), item.get_ref().as_table()?)))
                .collect::<Option<Vec<_>>>(),
            None => None,
        };
        let Some(tables) = tables else {
            self.wrong(key, format!("must be tables, each [[{key}]]"));
            return None;
        };
        let read = tables
            .into_iter()
            .map(|(line, table)| self.inner(key, Some(table), line, &mut read));
        Some(read.collect())
    }

    fn inner<T>(
        &mut self,
        key: &str,
        table: Option<&DeTable<'t>>,
        line: usize,
        read: impl FnOnce(&mut Section<'_, 't>) -> T,
    ) -> T {
        Section {
            report: self.report,
            path: format!("{}{key}.", self.path),
            table,
            line,
            asked: Vec::new(),
        }
        .read(read)
    }
}

/// None: it is not one, or negative, or huge.
fn integer(value: &DeValue<'_>) -> Option<u64> {
    let integer = value.as_integer()?;
    u64::from_str_radix(integer.as_str(), integer.radix()).ok()
}

/// The known word that was probably meant.
fn similar<'a>(typed: &str, known: &[&'a str]) -> Option<&'a str> {
    known
        .iter()
        .map(|word| (strsim::damerau_levenshtein(typed, word), *word))
        .filter(|(distance, word)| *distance <= 1 + word.len() / 4)
        .min()
        .map(|(_, word)| word)
}
