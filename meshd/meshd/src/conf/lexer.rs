//! Cuts the text of a configuration into sections of `Key = value` lines. It knows no key and no value; lines that are
//! neither a section, a pair, a comment nor empty become problems.

use super::value::Fault;
use super::Problem;

/// A `[Name]` line and the pairs below it.
#[derive(Debug)]
pub struct RawSection<'a> {
    /// Line of the heading, from 1.
    pub line: u32,
    /// What stands in the brackets.
    pub name: &'a str,
    /// Its pairs in order.
    pub pairs: Vec<Pair<'a>>,
}

/// A `Key = value` line.
#[derive(Debug, Clone, Copy)]
pub struct Pair<'a> {
    /// Line, from 1.
    pub line: u32,
    /// Left of `=`, trimmed, never empty.
    pub key: &'a str,
    /// Right of `=`, trimmed; may be empty.
    pub value: &'a str,
}

/// The sections of `text`; what fits nowhere is added to `problems`.
pub fn sections<'a>(text: &'a str, problems: &mut Vec<Problem>) -> Vec<RawSection<'a>> {
    let mut sections: Vec<RawSection<'a>> = Vec::new();
    for (line, full) in (1u32..).zip(text.lines()) {
        let content = full
            .split_once('#')
            .map_or(full, |(before, _)| before)
            .trim();
        let mut refuse = |key: &str, what: String, hint: &str| {
            problems.push(Problem {
                line,
                key: key.to_owned(),
                fault: Fault::new(what, hint),
            });
        };
        if content.is_empty() {
            continue;
        }
        if let Some(rest) = content.strip_prefix('[') {
            match rest.strip_suffix(']') {
                Some(name) => sections.push(RawSection {
                    line,
                    name: name.trim(),
                    pairs: Vec::new(),
                }),
                None => refuse(
                    "section",
                    "the heading is not closed".into(),
                    "write [Interface] or [Peer]",
                ),
            }
            continue;
        }
        // The line itself is not quoted: it may hold a key that lost its `=`.
        match content
            .split_once('=')
            .map(|(key, value)| (key.trim(), value.trim()))
        {
            None | Some(("", _)) => refuse(
                "text",
                "this is no `Key = value`".into(),
                "remove the line or put # before it",
            ),
            Some((key, value)) => match sections.last_mut() {
                Some(section) => section.pairs.push(Pair { line, key, value }),
                None => refuse(
                    key,
                    "it stands before the first section".into(),
                    "put [Interface] above it",
                ),
            },
        }
    }
    sections
}
