//! Raw: a table of the file, its keys known or unknown, its values not yet looked at.
//!
//! Owns: finding keys, complaining of unknown, missing and mistyped ones. May not touch: what any key means.
//! Invariant: whatever is returned as wrong has been reported.

use toml::de::{DeTable, DeValue};

use crate::diagnostic::{Report, Span};

/// A key a table may have.
pub(crate) struct Key {
    pub(crate) name: &'static str,
    /// A value as it could stand in the file.
    pub(crate) example: &'static str,
    /// Other words people know it by.
    pub(crate) aliases: &'static [&'static str],
}

impl Key {
    pub(crate) const fn new(name: &'static str, example: &'static str) -> Self {
        Self { name, example, aliases: &[] }
    }

    pub(crate) const fn alias(self, aliases: &'static [&'static str]) -> Self {
        Self { aliases, ..self }
    }

    /// A line with it as it could stand in the file.
    fn example(&self) -> String {
        format!("{} = {}", self.name, self.example)
    }
}

/// What kind of table it is and what may be in it.
pub(crate) struct Kind {
    /// As its header reads: `[[service]]`.
    pub(crate) title: &'static str,
    pub(crate) keys: &'static [Key],
}

/// Why a value cannot be taken.
pub(crate) struct Wrong {
    /// Goes on from the key's name: "must be …, not …".
    pub(crate) what: String,
    /// What to write; `None`: the key's example.
    pub(crate) help: Option<String>,
}

impl Wrong {
    pub(crate) fn new(what: impl Into<String>) -> Self {
        Self { what: what.into(), help: None }
    }

    pub(crate) fn help(self, help: impl Into<String>) -> Self {
        Self { help: Some(help.into()), ..self }
    }

    /// The value is of another type than `expected`.
    pub(crate) fn type_of(value: &DeValue<'_>, expected: &str) -> Self {
        let article = if matches!(value, DeValue::Integer(_) | DeValue::Array(_)) { "an" } else { "a" };
        Self::new(format!("must be {expected}, not {article} {}", value.type_str()))
    }
}

/// A value and where it stands.
#[derive(Clone)]
pub(crate) struct Located<T> {
    pub(crate) span: Span,
    pub(crate) value: T,
}

/// It was wrong, and that has been reported.
#[derive(Clone, Copy)]
pub(crate) struct Reported;

/// What was found under a key.
pub(crate) enum Field<T> {
    Absent,
    /// And it has been reported.
    Wrong,
    Given(Located<T>),
}

impl<T> Field<T> {
    /// `None` if it was wrong.
    pub(crate) fn or(self, default: T) -> Option<T> {
        self.optional().ok().map(|value| value.unwrap_or(default))
    }

    /// `None` if it was absent.
    pub(crate) fn optional(self) -> Result<Option<T>, Reported> {
        match self {
            Self::Absent => Ok(None),
            Self::Wrong => Err(Reported),
            Self::Given(found) => Ok(Some(found.value)),
        }
    }

    /// What is in force: the value, or `default` where there is none. `None` if it was wrong.
    pub(crate) fn in_force(&self, default: T) -> Option<T>
    where
        T: Copy,
    {
        match self {
            Self::Absent => Some(default),
            Self::Wrong => None,
            Self::Given(found) => Some(found.value),
        }
    }

    pub(crate) fn given(&self) -> Option<&Located<T>> {
        if let Self::Given(found) = self { Some(found) } else { None }
    }
}

/// A table that is being read.
pub(crate) struct Section<'d> {
    kind: &'static Kind,
    /// Its header, or the whole of it if it is written in line.
    pub(crate) span: Span,
    table: &'d DeTable<'d>,
}

impl<'d> Section<'d> {
    /// Reports keys that `kind` does not know.
    pub(crate) fn open(
        kind: &'static Kind,
        span: Span,
        table: &'d DeTable<'d>,
        report: &mut Report<'_>,
    ) -> Self {
        for (key, _) in table {
            let name: &str = key.get_ref();
            if !kind.keys.iter().any(|known| known.name == name) {
                let message = format!("unknown key `{}` in {}", name.escape_debug(), kind.title);
                report.error(&key.span(), message, unknown_key_help(kind, name));
            }
        }
        Self { kind, span, table }
    }

    /// The value of `name` as `parse` understands it.
    pub(crate) fn read<T>(
        &self,
        report: &mut Report<'_>,
        name: &'static str,
        parse: impl FnOnce(&'d DeValue<'d>) -> Result<T, Wrong>,
    ) -> Field<T> {
        let Some(found) = self.table.get(name) else { return Field::Absent };
        match parse(found.get_ref()) {
            Ok(value) => Field::Given(Located { span: found.span(), value }),
            Err(wrong) => {
                self.wrong(report, name, &found.span(), wrong);
                Field::Wrong
            }
        }
    }

    /// The value of `name`, which must be there. `None` if it is absent or wrong.
    pub(crate) fn require<T>(
        &self,
        report: &mut Report<'_>,
        name: &'static str,
        parse: impl FnOnce(&'d DeValue<'d>) -> Result<T, Wrong>,
    ) -> Option<Located<T>> {
        match self.read(report, name, parse) {
            Field::Given(found) => Some(found),
            Field::Wrong => None,
            Field::Absent => {
                let message = format!("missing key `{name}` in {}", self.kind.title);
                report.error(&self.span, message, format!("add `{}`", self.example(name)));
                None
            }
        }
    }

    /// The elements of the array `name`, each as `parse` understands it; none if there is no such key. `None` if any of
    /// them is wrong: each of those is reported at its own place.
    pub(crate) fn read_each<T>(
        &self,
        report: &mut Report<'_>,
        name: &'static str,
        mut parse: impl FnMut(&'d DeValue<'d>) -> Result<T, Wrong>,
    ) -> Option<Vec<Located<T>>> {
        let elements = self.read(report, name, |value| match value {
            DeValue::Array(elements) => Ok(elements),
            _ => Err(Wrong::type_of(value, "an array")),
        });
        let elements = match elements {
            Field::Absent => return Some(Vec::new()),
            Field::Wrong => return None,
            Field::Given(elements) => elements.value,
        };
        let mut all_right = true;
        let mut read = Vec::with_capacity(elements.len());
        for element in elements {
            match parse(element.get_ref()) {
                Ok(value) => read.push(Located { span: element.span(), value }),
                Err(wrong) => {
                    self.wrong(report, name, &element.span(), wrong);
                    all_right = false;
                }
            }
        }
        all_right.then_some(read)
    }

    /// The one table `name`.
    pub(crate) fn table(
        &self,
        report: &mut Report<'_>,
        name: &'static str,
        kind: &'static Kind,
    ) -> Option<Section<'d>> {
        let Some((key, found)) = self.table.get_key_value(name) else {
            report.error(
                &self.span,
                format!("missing {}", kind.title),
                format!("add {} with `{}`", kind.title, kind.keys[0].example()),
            );
            return None;
        };
        if let DeValue::Table(table) = found.get_ref() {
            return Some(Self::open(kind, found.span(), table, report));
        }
        let message = format!("`{name}` must be one table");
        report.error(&key.span(), message, format!("write its header as {}, once", kind.title));
        None
    }

    /// The tables `name`; none if there is no such key.
    pub(crate) fn tables(
        &self,
        report: &mut Report<'_>,
        name: &'static str,
        kind: &'static Kind,
    ) -> Vec<Section<'d>> {
        let Some((key, found)) = self.table.get_key_value(name) else { return Vec::new() };
        let help = || format!("write {} above each, with double brackets", kind.title);
        let DeValue::Array(array) = found.get_ref() else {
            report.error(&key.span(), format!("`{name}` must be a list of tables"), help());
            return Vec::new();
        };
        let mut sections = Vec::new();
        for element in array {
            if let DeValue::Table(table) = element.get_ref() {
                sections.push(Self::open(kind, element.span(), table, report));
            } else {
                let what = Wrong::type_of(element.get_ref(), "a list of tables only").what;
                report.error(&element.span(), format!("`{name}` {what}"), help());
            }
        }
        sections
    }

    /// Reports that the value of `name`, or a part of it, at `span`, cannot be taken.
    pub(crate) fn wrong(&self, report: &mut Report<'_>, name: &'static str, span: &Span, wrong: Wrong) {
        let help = wrong.help.unwrap_or_else(|| format!("write for example `{}`", self.example(name)));
        report.error(span, format!("`{name}` {}", wrong.what), help);
    }

    fn example(&self, name: &str) -> String {
        self.kind.keys.iter().find(|key| key.name == name).map_or_else(|| name.to_owned(), Key::example)
    }
}

fn unknown_key_help(kind: &Kind, name: &str) -> String {
    let names = kind.keys.iter().map(|key| key.name);
    let folded = name.to_lowercase().replace('-', "_");
    let known_as = kind.keys.iter().find(|key| key.aliases.contains(&&*folded)).map(|key| key.name);
    match known_as.or_else(|| closest(&folded, names.clone())) {
        Some(name) => format!("did you mean `{name}`?"),
        None => format!("{} may have: {}", kind.title, names.collect::<Vec<_>>().join(", ")),
    }
}

/// The word that `written` was probably meant to be.
pub(crate) fn closest(written: &str, words: impl Iterator<Item = &'static str>) -> Option<&'static str> {
    // A third of its letters may be wrong. (Anything longer than every word is not even compared.)
    if written.len() > 40 {
        return None;
    }
    words
        .map(|word| (strsim::damerau_levenshtein(written, word), word))
        .filter(|&(distance, word)| distance <= word.len().max(3) / 3)
        .min_by_key(|&(distance, _)| distance)
        .map(|(_, word)| word)
}
