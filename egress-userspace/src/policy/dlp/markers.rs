//! What tells a model in a response to do something else than it was asked: markers of prompt injection.

use super::detectors::Sought;

/// Markers by name. What is written to be read by a model only: instructions to forget instructions, the tokens with which
/// chats are written down, and letters that nobody sees (tags of Unicode; a flag has six).
const MARKERS: [(&str, &str); 4] = [
    (
        "ignore-instructions",
        r"(?i)\b(?:ignore|disregard|forget|override)[ \t]{1,3}(?:(?:all|any|the|your|of|these|every)[ \t]{1,3}){0,3}(?:previous|prior|above|earlier|preceding|existing)[ \t]{1,3}(?:instructions?|prompts?|directions?|rules|guidelines|context)\b",
    ),
    (
        "new-instructions",
        r"(?i)\b(?:your new|new system|updated system)[ \t]{1,3}(?:instructions?|prompt)[ \t]{0,3}(?:are|is|:)",
    ),
    ("chat-tokens", r"(?:<\|(?:im_start|im_end|system|start_header_id|endofprompt)\|>|\[/?INST\]|<</?SYS>>)"),
    ("hidden-unicode", r"(?:\xf3\xa0[\x80\x81][\x80-\xbf]){8,64}"),
];

/// The built-in markers.
#[must_use]
pub fn markers() -> Vec<(String, Sought)> {
    let sought = |(name, pattern): &(&str, &str)| ((*name).to_owned(), Sought::Pattern((*pattern).to_owned()));
    MARKERS.iter().map(sought).collect()
}
