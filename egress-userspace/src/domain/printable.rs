//! Text from bottles and providers, for a terminal.

/// Nothing in it does anything to a terminal or to the direction of what stands beside it: such characters are shown by number.
/// What bottles send, and models that providers name, come here before they come to a terminal.
#[must_use]
pub fn printable(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for character in text.chars() {
        if is_harmful(character) {
            safe.extend(character.escape_unicode());
        } else {
            safe.push(character);
        }
    }
    safe
}

/// Controls, and what Unicode calls formats: directions, joiners, tags.
fn is_harmful(character: char) -> bool {
    character.is_control()
        || matches!(character,
            '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_a_bottle_sends_does_anything_to_a_terminal() {
        let check = |text: &str, expected: &str| assert_eq!(printable(text), expected);
        check("POST /v1/messages", "POST /v1/messages");
        check("gpt-5 für Jürgen 東京", "gpt-5 für Jürgen 東京");
        check("\u{1b}[2Jx\u{7}\r\n\t", "\\u{1b}[2Jx\\u{7}\\u{d}\\u{a}\\u{9}");
        check("\u{9b}31m\u{7f}", "\\u{9b}31m\\u{7f}");
        check("a\u{202e}b\u{200b}c\u{2066}d\u{e0041}", "a\\u{202e}b\\u{200b}c\\u{2066}d\\u{e0041}");
    }
}
