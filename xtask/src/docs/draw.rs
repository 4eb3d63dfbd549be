//! Lines of a terminal as a picture. Pure; knows the colours that our own programs use, and no movement of the cursor.

use std::fmt::Write as _;

/// Of a letter, in the picture's units.
const LETTER_WIDTH: f64 = 8.4;
const LINE_HEIGHT: f64 = 18.0;
const MARGIN: f64 = 20.0;
/// Room for the three buttons of a window.
const BAR: f64 = 30.0;
/// Longer lines are cut off, as a terminal of that width would show them in a picture.
const COLUMNS_MAX: usize = 118;

/// How letters look: the parameters of the last colour sequence.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Look {
    codes: String,
}

/// The picture of all lines.
pub(super) fn picture(text: &str) -> String {
    let lines: Vec<Vec<(Look, String)>> = text.trim().lines().map(pieces).collect();
    let columns = lines.iter().map(|line| width(line)).max().unwrap_or(0).min(COLUMNS_MAX);
    let width = (columns as f64).mul_add(LETTER_WIDTH, 2.0 * MARGIN);
    let height = (lines.len() as f64).mul_add(LINE_HEIGHT, BAR + MARGIN);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width:.0} {height:.0}\" width=\"{width:.0}\" \
         height=\"{height:.0}\">\n<style>text{{font:14px ui-monospace,'DejaVu Sans Mono',Menlo,Consolas,monospace;fill:#d6deeb;\
         white-space:pre}}</style>\n<rect width=\"100%\" height=\"100%\" rx=\"8\" fill=\"#10151f\"/>\n"
    );
    for (index, colour) in ["#ff5f57", "#febc2e", "#28c840"].iter().enumerate() {
        let x = (index as f64).mul_add(18.0, MARGIN);
        let _ = writeln!(svg, "<circle cx=\"{x:.0}\" cy=\"16\" r=\"5.5\" fill=\"{colour}\"/>");
    }
    for (index, line) in lines.iter().enumerate() {
        let y = (index as f64).mul_add(LINE_HEIGHT, BAR + LINE_HEIGHT * 0.75);
        let mut left = COLUMNS_MAX;
        let spans: String = line.iter().map(|piece| span(piece, &mut left)).collect();
        if !spans.is_empty() {
            let _ = writeln!(svg, "<text x=\"{MARGIN:.0}\" y=\"{y:.1}\" xml:space=\"preserve\">{spans}</text>");
        }
    }
    svg + "</svg>\n"
}

fn width(line: &[(Look, String)]) -> usize {
    line.iter().map(|(_, text)| text.chars().count()).sum()
}

fn span((look, text): &(Look, String), left: &mut usize) -> String {
    let shown: String = text.chars().take(*left).collect();
    *left -= shown.chars().count();
    let escaped = shown.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
    let style = style(&look.codes);
    if style.is_empty() { escaped } else { format!("<tspan {style}>{escaped}</tspan>") }
}

/// The attributes that show it.
fn style(codes: &str) -> String {
    let attribute = |code: &str| match code {
        "1" => "font-weight=\"bold\"",
        "2" => "fill=\"#8b98ad\"",
        "31" => "fill=\"#ff6b6b\"",
        "32" => "fill=\"#7ee787\"",
        "33" => "fill=\"#f2cc60\"",
        "36" => "fill=\"#79c0ff\"",
        _ => "",
    };
    let attributes = codes.split(';').map(attribute).filter(|attribute| !attribute.is_empty());
    attributes.collect::<Vec<_>>().join(" ")
}

/// A line in pieces that look alike.
fn pieces(line: &str) -> Vec<(Look, String)> {
    let mut pieces = Vec::new();
    let mut look = Look::default();
    let mut parts = line.split("\u{1b}[");
    let first = parts.next().unwrap_or_default();
    pieces.push((look.clone(), first.to_owned()));
    for part in parts {
        let end = part.find(|letter: char| letter.is_ascii_alphabetic()).unwrap_or(0);
        let (codes, text) = (part.get(..end).unwrap_or_default(), part.get(end + 1..).unwrap_or_default());
        if part.get(end..=end) == Some("m") {
            look.codes = codes.to_owned();
        }
        pieces.push((look.clone(), text.to_owned()));
    }
    pieces.retain(|(_, text)| !text.is_empty());
    pieces
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn colours_end_where_they_end() {
        let piece = |codes: &str, text: &str| (Look { codes: codes.to_owned() }, text.to_owned());
        assert_eq!(pieces("a\u{1b}[1;36mb\u{1b}[0m c"), [piece("", "a"), piece("1;36", "b"), piece("0", " c")]);
        assert_eq!(pieces("\u{1b}[2Kx"), [piece("", "x")]);
    }

    #[test]
    fn a_picture_holds_its_text_and_no_marks_of_its_own() {
        let svg = picture("\u{1b}[1;32m✓\u{1b}[0m a <b> & c\n");
        assert!(
            svg.contains("<tspan font-weight=\"bold\" fill=\"#7ee787\">✓</tspan> a &lt;b&gt; &amp; c</text>"),
            "{svg}"
        );
    }
}
