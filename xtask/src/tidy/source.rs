//! A Rust source as tokens: which paths it names, how long its functions are, where it says `allow` or `unsafe`.
//!
//! Works on tokens, not on a syntax tree: paths inside macros count too, and comments and strings do not.

use proc_macro2::{Delimiter, Group, LexError, TokenStream, TokenTree};

/// A path with at least two segments, or the whole of a `use`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct UsedPath {
    pub(super) segments: Vec<String>,
    pub(super) line: usize,
    /// How many inline modules it is in.
    pub(super) inline_depth: usize,
}

/// A function with a body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Function {
    pub(super) name: String,
    pub(super) line: usize,
    /// Lines of its body that hold code.
    pub(super) lines: usize,
}

/// A keyword and its line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Keyword {
    pub(super) word: String,
    pub(super) line: usize,
}

/// What a file says; paths and keywords of tests are left out.
#[derive(Debug, Default)]
pub(super) struct Source {
    pub(super) paths: Vec<UsedPath>,
    pub(super) functions: Vec<Function>,
    pub(super) keywords: Vec<Keyword>,
    /// Lines with an `allow` attribute.
    pub(super) allows: Vec<usize>,
    /// The whole file is a test.
    pub(super) is_test: bool,
}

/// Where the walk is.
#[derive(Clone, Copy, Default)]
struct Place {
    in_test: bool,
    inline_depth: usize,
}

impl Source {
    /// Reads `text`; the error is that of a text that is no Rust.
    pub(super) fn read(text: &str) -> Result<Self, LexError> {
        let stream: TokenStream = text.parse()?;
        let lines: Vec<&str> = text.lines().collect();
        let mut source = Self::default();
        source.walk(stream, Place::default(), &lines);
        Ok(source)
    }

    fn walk(&mut self, stream: TokenStream, place: Place, lines: &[&str]) {
        let tokens: Vec<TokenTree> = stream.into_iter().collect();
        // An attribute holds until the item it stands before has ended.
        let mut item = place;
        let mut index = 0;
        while let Some(token) = tokens.get(index) {
            match token {
                TokenTree::Punct(punct) if punct.as_char() == '#' => {
                    if let Some(attribute) = attribute_after(&tokens, index) {
                        self.attribute(attribute, &mut item, place);
                    }
                }
                TokenTree::Punct(punct) if punct.as_char() == ';' => item = place,
                TokenTree::Ident(ident) => {
                    let word = ident.to_string();
                    let line = ident.span().start().line;
                    if word == "fn" {
                        self.function(&tokens, index, lines);
                    }
                    if !item.in_test && matches!(word.as_str(), "unsafe" | "async") {
                        self.keywords.push(Keyword { word: word.clone(), line });
                    }
                    if !item.in_test && !continues_a_path(&tokens, index) {
                        self.path(&tokens, index, item.inline_depth, line);
                    }
                }
                TokenTree::Group(group) => {
                    let is_body = group.delimiter() == Delimiter::Brace;
                    let depth = usize::from(is_body && is_module(&tokens, index));
                    self.walk(group.stream(), Place { inline_depth: item.inline_depth + depth, ..item }, lines);
                    if is_body {
                        item = place;
                    }
                }
                TokenTree::Punct(_) | TokenTree::Literal(_) => {}
            }
            index += 1;
        }
    }

    fn attribute(&mut self, attribute: &Group, item: &mut Place, place: Place) {
        let tokens: Vec<TokenTree> = attribute.stream().into_iter().collect();
        if names_allow(&tokens) {
            self.allows.push(attribute.span_open().start().line);
        }
        let words: String = attribute.stream().to_string().split_whitespace().collect();
        if words == "cfg(test)" || words == "test" || words.ends_with("::test") {
            item.in_test = true;
            // `#![cfg(test)]` at the top of a file comes before anything else.
            self.is_test |=
                words == "cfg(test)" && self.paths.is_empty() && place.inline_depth == 0 && is_inner(attribute);
        }
    }

    fn function(&mut self, tokens: &[TokenTree], index: usize, lines: &[&str]) {
        let Some(TokenTree::Ident(name)) = tokens.get(index + 1) else {
            return;
        };
        let body = tokens.iter().skip(index).find_map(|token| match token {
            TokenTree::Punct(punct) if punct.as_char() == ';' => Some(None),
            TokenTree::Group(group) if group.delimiter() == Delimiter::Brace => Some(Some(group)),
            TokenTree::Group(_) | TokenTree::Ident(_) | TokenTree::Punct(_) | TokenTree::Literal(_) => None,
        });
        if let Some(Some(body)) = body {
            let (first, last) = (body.span_open().start().line, body.span_close().start().line);
            let between = lines.get(first..last.saturating_sub(1)).unwrap_or_default();
            let lines = between.iter().filter(|line| holds_code(line)).count();
            self.functions.push(Function { name: name.to_string(), line: name.span().start().line, lines });
        }
    }

    fn path(&mut self, tokens: &[TokenTree], index: usize, inline_depth: usize, line: usize) {
        let mut found = Vec::new();
        let is_use = index.checked_sub(1).and_then(|at| tokens.get(at)).is_some_and(|token| is_word(token, "use"));
        branches(tokens.get(index..).unwrap_or_default(), &[], &mut found);
        for (segments, at) in found {
            if segments.len() > 1 || is_use {
                self.paths.push(UsedPath { segments, line: at.max(line), inline_depth });
            }
        }
    }
}

/// Every path of the tree that starts at the first token: `a::{b, c::d}` is `a::b` and `a::c::d`.
fn branches(tokens: &[TokenTree], prefix: &[String], found: &mut Vec<(Vec<String>, usize)>) {
    let mut segments = prefix.to_vec();
    let mut line = 0;
    let mut index = 0;
    loop {
        match tokens.get(index) {
            Some(TokenTree::Ident(ident)) => {
                segments.push(ident.to_string().trim_start_matches("r#").to_owned());
                line = ident.span().start().line;
            }
            Some(TokenTree::Group(group)) if group.delimiter() == Delimiter::Brace && index > 0 => {
                let inner: Vec<TokenTree> = group.stream().into_iter().collect();
                for branch in inner.split(|token| is_punct(token, ',')) {
                    branches(branch, &segments, found);
                }
                return;
            }
            _ => break,
        }
        index += 1;
        if !is_separator(tokens, index) {
            break;
        }
        index += 2;
    }
    let is_glob = tokens.first().is_some_and(|token| is_punct(token, '*'));
    if segments.len() > prefix.len() || is_glob {
        found.push((segments, line));
    }
}

/// `::` stands at `index`.
fn is_separator(tokens: &[TokenTree], index: usize) -> bool {
    let is_colon = |at: usize| tokens.get(at).is_some_and(|token| is_punct(token, ':'));
    is_colon(index) && is_colon(index + 1)
}

/// The word at `index` follows `::` of a longer path, or a dot.
fn continues_a_path(tokens: &[TokenTree], index: usize) -> bool {
    let follows_separator = index >= 3
        && is_separator(tokens, index - 2)
        && tokens.get(index - 3).is_some_and(|token| matches!(token, TokenTree::Ident(_)) || is_punct(token, '>'))
        && !tokens.get(index - 3).is_some_and(|token| is_word(token, "use"));
    let follows_dot = index >= 1 && tokens.get(index - 1).is_some_and(|token| is_punct(token, '.'));
    follows_separator || follows_dot
}

/// `mod name { … }` with the braces at `index`.
fn is_module(tokens: &[TokenTree], index: usize) -> bool {
    index >= 2 && tokens.get(index - 2).is_some_and(|token| is_word(token, "mod"))
}

fn attribute_after(tokens: &[TokenTree], index: usize) -> Option<&Group> {
    let next = tokens.get(index + 1)?;
    let next = if is_punct(next, '!') { tokens.get(index + 2)? } else { next };
    match next {
        TokenTree::Group(group) if group.delimiter() == Delimiter::Bracket => Some(group),
        TokenTree::Group(_) | TokenTree::Ident(_) | TokenTree::Punct(_) | TokenTree::Literal(_) => None,
    }
}

/// Inner attributes have their bracket two columns after the `#`.
fn is_inner(attribute: &Group) -> bool {
    attribute.span_open().start().column == 2
}

/// `allow(…)`, alone or inside `cfg_attr(…)`.
fn names_allow(tokens: &[TokenTree]) -> bool {
    tokens.iter().enumerate().any(|(index, token)| match token {
        TokenTree::Ident(ident) => *ident == "allow" && matches!(tokens.get(index + 1), Some(TokenTree::Group(_))),
        TokenTree::Group(group) => names_allow(&group.stream().into_iter().collect::<Vec<_>>()),
        TokenTree::Punct(_) | TokenTree::Literal(_) => false,
    })
}

fn is_punct(token: &TokenTree, wanted: char) -> bool {
    matches!(token, TokenTree::Punct(punct) if punct.as_char() == wanted)
}

fn is_word(token: &TokenTree, wanted: &str) -> bool {
    matches!(token, TokenTree::Ident(ident) if *ident == wanted)
}

fn holds_code(line: &str) -> bool {
    let line = line.trim();
    !line.is_empty() && !line.starts_with("//")
}
