//! The YAML that settings and routes are written in: block mappings, lists and one-line scalars, each with its place. All else
//! is refused.
//!
//! Knows no key of either.

use std::borrow::Cow;

use saphyr_parser::{Event, Marker, Parser, ScalarStyle, ScanError, Span, StrInput};

use super::error::Problem;

/// Deepest nesting of mappings and lists; settings need four.
const DEPTH_MAX: usize = 16;

/// Where something stands, both from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) line: usize,
    pub(super) column: usize,
}

/// A problem and its place.
pub(super) type Misplaced = (Place, Problem);

/// A key or a value, and its place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Text {
    pub(super) text: String,
    pub(super) place: Place,
}

/// What stands after a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Node {
    /// `key:` and nothing, or null.
    Nothing(Place),
    /// One line of text.
    Scalar(Text),
    /// More keys.
    Mapping(Vec<(Text, Node)>, Place),
    /// Several of these.
    List(Vec<Node>, Place),
}

impl Node {
    pub(super) fn place(&self) -> Place {
        match self {
            Self::Nothing(place) | Self::Mapping(_, place) | Self::List(_, place) => *place,
            Self::Scalar(text) => text.place,
        }
    }
}

/// Reads one document; a text without any is [`Node::Nothing`].
pub(super) fn read(text: &str) -> Result<Node, Misplaced> {
    let mut reader = Reader { parser: Parser::new_from_str(text), text };
    let mut node = None;
    loop {
        let (event, span) = reader.next()?;
        match event {
            Event::Nothing | Event::StreamStart | Event::DocumentEnd => {}
            Event::StreamEnd => return Ok(node.unwrap_or(Node::Nothing(place(span.start)))),
            Event::DocumentStart(_) if node.is_some() => return Err(not_plain(span, "several documents in one file")),
            Event::DocumentStart(_) => {
                let (event, span) = reader.next()?;
                node = Some(reader.node(event, span, 0)?);
            }
            Event::Alias(_)
            | Event::Scalar(..)
            | Event::SequenceStart(..)
            | Event::SequenceEnd
            | Event::MappingStart(..)
            | Event::MappingEnd => return Err((place(span.start), Problem::NotAMapping)),
        }
    }
}

struct Reader<'text> {
    parser: Parser<'text, StrInput<'text>>,
    text: &'text str,
}

impl<'text> Reader<'text> {
    fn next(&mut self) -> Result<(Event<'text>, Span), Misplaced> {
        match self.parser.next() {
            Some(Ok(event)) => Ok(event),
            Some(Err(error)) => Err(syntax(&error, self.text)),
            // The parser ends only after the event that ends the stream, and that is where reading stops.
            None => Err((Place { line: 1, column: 1 }, Problem::Syntax("unexpected end".to_owned()))),
        }
    }

    fn node(&mut self, event: Event<'text>, span: Span, depth: usize) -> Result<Node, Misplaced> {
        match event {
            Event::Scalar(text, style, anchor, tag) => {
                plain(anchor, tag.is_some(), span)?;
                scalar(text, style, span)
            }
            Event::MappingStart(anchor, tag) => {
                plain(anchor, tag.is_some(), span)?;
                if self.text.chars().nth(span.start.index()) == Some('{') {
                    return Err(not_plain(span, "flow mappings `{…}`"));
                }
                check_depth(span, depth)?;
                self.mapping(place(span.start), depth)
            }
            Event::SequenceStart(anchor, tag) => {
                plain(anchor, tag.is_some(), span)?;
                check_depth(span, depth)?;
                self.list(place(span.start), depth)
            }
            Event::Alias(_) => Err(not_plain(span, "aliases")),
            Event::Nothing
            | Event::StreamStart
            | Event::StreamEnd
            | Event::DocumentStart(_)
            | Event::DocumentEnd
            | Event::SequenceEnd
            | Event::MappingEnd => Err((place(span.start), Problem::NotAMapping)),
        }
    }

    fn mapping(&mut self, at: Place, depth: usize) -> Result<Node, Misplaced> {
        let mut entries: Vec<(Text, Node)> = Vec::new();
        loop {
            let (event, span) = self.next()?;
            if event == Event::MappingEnd {
                return Ok(Node::Mapping(entries, at));
            }
            let Node::Scalar(key) = self.node(event, span, depth + 1)? else {
                return Err((place(span.start), Problem::NotAMapping));
            };
            if let Some((first, _)) = entries.iter().find(|(first, _)| first.text == key.text) {
                let problem = Problem::DuplicateKey { key: key.text, first_line: first.place.line };
                return Err((key.place, problem));
            }
            let (event, span) = self.next()?;
            let value = match self.node(event, span, depth + 1)? {
                // The parser says that nothing is wherever it went on looking for it.
                Node::Nothing(_) => Node::Nothing(key.place),
                value @ (Node::Scalar(_) | Node::Mapping(..) | Node::List(..)) => value,
            };
            entries.push((key, value));
        }
    }

    fn list(&mut self, at: Place, depth: usize) -> Result<Node, Misplaced> {
        let mut items = Vec::new();
        loop {
            let (event, span) = self.next()?;
            if event == Event::SequenceEnd {
                return Ok(Node::List(items, at));
            }
            items.push(self.node(event, span, depth + 1)?);
        }
    }
}

fn check_depth(span: Span, depth: usize) -> Result<(), Misplaced> {
    if depth == DEPTH_MAX { Err(not_plain(span, "mappings this deep")) } else { Ok(()) }
}

fn scalar(text: Cow<'_, str>, style: ScalarStyle, span: Span) -> Result<Node, Misplaced> {
    let is_block = matches!(style, ScalarStyle::Literal | ScalarStyle::Folded);
    if is_block || span.start.line() != span.end.line() {
        return Err(not_plain(span, "values of several lines"));
    }
    let is_null = style == ScalarStyle::Plain && matches!(text.as_ref(), "" | "~" | "null" | "Null" | "NULL");
    let place = place(span.start);
    Ok(if is_null { Node::Nothing(place) } else { Node::Scalar(Text { text: text.into_owned(), place }) })
}

fn plain(anchor: usize, has_tag: bool, span: Span) -> Result<(), Misplaced> {
    if anchor != 0 {
        return Err(not_plain(span, "anchors"));
    }
    if has_tag { Err(not_plain(span, "tags")) } else { Ok(()) }
}

fn place(marker: Marker) -> Place {
    Place { line: marker.line(), column: marker.col() + 1 }
}

fn not_plain(span: Span, what: &'static str) -> Misplaced {
    (place(span.start), Problem::NotPlain(what))
}

fn syntax(error: &ScanError, text: &str) -> Misplaced {
    let marker = error.marker();
    let mut rest = text.chars().skip(marker.index());
    // Outside quotes a star begins the name of an anchor, which cannot have been meant.
    let is_pattern = rest.next() == Some('*') && matches!(rest.next(), Some('.' | '-'));
    let problem = if is_pattern { Problem::Unquoted } else { Problem::Syntax(error.info().to_owned()) };
    (place(*marker), problem)
}
