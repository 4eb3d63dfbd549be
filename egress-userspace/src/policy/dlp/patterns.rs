//! Patterns of an operator's: one engine for all of them. Each match has a length that is known beforehand, so that a text can
//! be looked at in pieces and nothing more than that must be held.

use std::ops::Range;

use regex_automata::meta::{Config, Regex};
use regex_automata::util::syntax;
use regex_automata::{Anchored, Input, PatternID};

use super::DetectorError;

/// Longest match of a pattern, in bytes.
const MATCH_BYTES_MAX: usize = 4 << 10;
/// What all patterns may take, compiled, in bytes.
const COMPILED_BYTES_MAX: usize = 4 << 20;
/// What is remembered while one is looked for, in bytes.
const CACHE_BYTES_MAX: usize = 4 << 20;

/// Compiled patterns.
#[derive(Debug)]
pub(super) struct Patterns {
    regex: Regex,
    /// The detector of each.
    detectors: Vec<usize>,
    /// Longest match of any, in bytes.
    pub(super) length_max: usize,
}

impl Patterns {
    /// Compiles patterns: the name, the text, and the number of the detector of each.
    pub(super) fn new(patterns: &[(&str, &str, usize)]) -> Result<Option<Self>, DetectorError> {
        if patterns.is_empty() {
            return Ok(None);
        }
        // Bytes, not characters: bodies need not be text. Lines, because a body has no beginning that means anything.
        let syntax = syntax::Config::new().unicode(false).utf8(false).multi_line(true);
        let (mut parsed, mut length_max) = (Vec::new(), 0);
        for (name, text, _) in patterns {
            let error = |why: String| DetectorError::Pattern { name: (*name).to_owned(), why };
            let pattern = syntax::parse_with(text, &syntax).map_err(|cause| error(cause.to_string()))?;
            let properties = pattern.properties();
            if properties.look_set().contains_anchor_haystack() {
                return Err(error("\\A and \\z stand for nothing here: what is looked at is a stream".to_owned()));
            }
            if properties.minimum_len().is_none_or(|least| least == 0) {
                return Err(error("it matches nothing at all, which is everywhere".to_owned()));
            }
            match properties.maximum_len() {
                Some(most) if most <= MATCH_BYTES_MAX => length_max = length_max.max(most),
                Some(_) | None => {
                    let why = format!(
                        "it may match more than {MATCH_BYTES_MAX} bytes: write {{1,64}} in place of + and {{0,64}} in place of *"
                    );
                    return Err(error(why));
                }
            }
            parsed.push(pattern);
        }
        let config = Config::new()
            .utf8_empty(false)
            .nfa_size_limit(Some(COMPILED_BYTES_MAX))
            .hybrid_cache_capacity(CACHE_BYTES_MAX);
        let build =
            |parsed: &[_]| Regex::builder().configure(config.clone()).build_many_from_hir(parsed).map_err(Box::new);
        let regex = build(&parsed).map_err(|cause| {
            // Which of them is it, or is it all together?
            let alone = parsed.iter().position(|pattern| build(std::slice::from_ref(pattern)).is_err());
            let name = alone.and_then(|index| patterns.get(index)).or(patterns.last()).map_or("", |(name, ..)| name);
            DetectorError::Pattern { name: name.to_owned(), why: format!("it is too large: {cause}") }
        })?;
        let detectors = patterns.iter().map(|(.., detector)| *detector).collect();
        Ok(Some(Self { regex, detectors, length_max }))
    }

    /// The first match that begins in `range`: each pattern that matches there, with its detector. What stands before `range`
    /// is looked at, but is no part of it.
    pub(super) fn first(&self, text: &[u8], range: Range<usize>) -> Vec<(usize, Range<usize>)> {
        let input = Input::new(text).range(range.start..);
        let Some(first) = self.regex.search(&input).filter(|first| first.start() < range.end) else {
            return Vec::new();
        };
        let all = self.detectors.iter().enumerate().filter_map(|(index, detector)| {
            let pattern = PatternID::new(index).ok()?;
            let input = Input::new(text).range(first.start()..).anchored(Anchored::Pattern(pattern));
            Some((*detector, self.regex.search(&input)?.range()))
        });
        all.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(pattern: &str, says: &str) {
        let error = Patterns::new(&[("fine", "x", 0), ("mine", pattern, 1)]).unwrap_err().to_string();
        assert!(error.contains("mine") && error.contains(says), "{error}");
    }

    #[test]
    fn a_pattern_that_is_none_or_knows_no_bounds_is_an_error_that_names_it() {
        check("(", "unclosed");
        check("a*", "everywhere");
        check("a|", "everywhere");
        check("key-.+", "{1,64}");
        check("(ab){3000}", "{1,64}");
        check(r"\Aab", "stream");
        let many: Vec<String> = ('a'..='z').chain('A'..='Z').map(|char| format!("[{char}0-9_]{{4000}}")).collect();
        check(&many.join("|"), "too large");
    }

    #[test]
    fn all_that_match_at_the_first_place_are_told() {
        let patterns = Patterns::new(&[("a", "PROJ-[0-9]{1,4}", 7), ("b", "PROJ-[0-9]{4}-X", 8), ("c", "zz", 9)]);
        let patterns = patterns.unwrap().unwrap();
        assert_eq!(patterns.length_max, 11);
        let text = b"see PROJ-1234-X and zz";
        assert_eq!(patterns.first(text, 0..22), [(7, 4..13), (8, 4..15)]);
        assert_eq!(patterns.first(text, 15..22), [(9, 20..22)]);
        assert_eq!(patterns.first(text, 15..20), []);
    }
}
