//! What a terminal shows, as a picture. Pure.

use std::fmt::Write as _;
use std::num::NonZeroU16;

use vt100::{Cell, Color, Parser, Screen};

/// Of a letter, in the picture's units.
const LETTER_WIDTH: f64 = 8.4;
const LINE_HEIGHT: f64 = 18.0;
const MARGIN: f64 = 20.0;
/// Room for the three buttons of a window.
const BAR: f64 = 30.0;

const BACKGROUND: &str = "#10151f";
const LETTERS: &str = "#d6deeb";
const FAINT: &str = "#8b98ad";
/// The terminal's own colours, by number; the bright ones look the same.
const PALETTE: [&str; 8] = ["#10151f", "#ff6b6b", "#7ee787", "#f2cc60", "#82aaff", "#c792ea", "#79c0ff", LETTERS];

/// How letters look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Look {
    colour: &'static str,
    behind: Option<&'static str>,
    is_bold: bool,
}

/// Letters that look alike, from a column on.
#[derive(Debug, PartialEq, Eq)]
struct Piece {
    look: Look,
    column: u16,
    columns: u16,
    text: String,
}

/// What a terminal of this size shows after this output; empty lines at its end are left out.
pub(super) fn picture(output: &str, rows: NonZeroU16, columns: NonZeroU16) -> String {
    let mut parser = Parser::new(rows, columns, 0);
    parser.process(output.as_bytes());
    let screen = parser.screen();
    let mut lines: Vec<Vec<Piece>> = (0..rows.get()).map(|row| pieces(screen, row, columns.get())).collect();
    while lines.last().is_some_and(Vec::is_empty) {
        lines.pop();
    }
    let used = lines.iter().flatten().map(|piece| piece.column + piece.columns).max().unwrap_or(0);
    let width = f64::from(used).mul_add(LETTER_WIDTH, 2.0 * MARGIN);
    let height = (lines.len() as f64).mul_add(LINE_HEIGHT, BAR + MARGIN);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width:.0} {height:.0}\" width=\"{width:.0}\" \
         height=\"{height:.0}\">\n<style>text{{font:14px ui-monospace,'DejaVu Sans Mono',Menlo,Consolas,monospace;\
         fill:{LETTERS};white-space:pre}}</style>\n<rect width=\"100%\" height=\"100%\" rx=\"8\" fill=\"{BACKGROUND}\"/>\n"
    );
    for (index, colour) in ["#ff5f57", "#febc2e", "#28c840"].iter().enumerate() {
        let x = (index as f64).mul_add(18.0, MARGIN);
        let _ = writeln!(svg, "<circle cx=\"{x:.0}\" cy=\"16\" r=\"5.5\" fill=\"{colour}\"/>");
    }
    for (index, line) in lines.iter().enumerate() {
        let top = (index as f64).mul_add(LINE_HEIGHT, BAR);
        svg.extend(line.iter().filter_map(|piece| backdrop(piece, top)));
        let spans: String = line.iter().filter(|piece| !piece.text.trim().is_empty()).map(span).collect();
        if !spans.is_empty() {
            let y = LINE_HEIGHT.mul_add(0.75, top);
            let _ = writeln!(svg, "<text y=\"{y:.1}\" xml:space=\"preserve\">{spans}</text>");
        }
    }
    svg + "</svg>\n"
}

fn left(piece: &Piece) -> f64 {
    f64::from(piece.column).mul_add(LETTER_WIDTH, MARGIN)
}

/// What is behind its letters, if it is not the window.
fn backdrop(piece: &Piece, top: f64) -> Option<String> {
    let (x, width) = (left(piece), f64::from(piece.columns) * LETTER_WIDTH);
    let colour = piece.look.behind?;
    let place = format!("x=\"{x:.1}\" y=\"{top:.1}\" width=\"{width:.1}\" height=\"{LINE_HEIGHT}\"");
    Some(format!("<rect {place} fill=\"{colour}\"/>\n"))
}

/// Its letters, in their own columns whatever the font.
fn span(piece: &Piece) -> String {
    let escaped = piece.text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
    let weight = if piece.look.is_bold { " font-weight=\"bold\"" } else { "" };
    let fill = if piece.look.colour == LETTERS { String::new() } else { format!(" fill=\"{}\"", piece.look.colour) };
    format!("<tspan x=\"{:.1}\"{weight}{fill}>{escaped}</tspan>", left(piece))
}

/// A line in pieces that look alike; without blanks at its end.
fn pieces(screen: &Screen, row: u16, columns: u16) -> Vec<Piece> {
    let mut pieces: Vec<Piece> = Vec::new();
    let cells = (0..columns).filter_map(|column| Some((column, screen.cell(row, column)?)));
    for (column, cell) in cells.filter(|(_, cell)| !cell.is_wide_continuation()) {
        let (look, width) = (look(cell), if cell.is_wide() { 2 } else { 1 });
        let text = if cell.has_contents() { cell.contents() } else { " " };
        match pieces.last_mut().filter(|piece| piece.look == look) {
            Some(piece) => {
                piece.columns += width;
                piece.text.push_str(text);
            }
            None => pieces.push(Piece { look, column, columns: width, text: text.to_owned() }),
        }
    }
    while pieces.last().is_some_and(|piece| piece.look.behind.is_none() && piece.text.trim().is_empty()) {
        pieces.pop();
    }
    if let Some(last) = pieces.last_mut().filter(|piece| piece.look.behind.is_none()) {
        let blanks = last.text.len() - last.text.trim_end().len();
        last.text.truncate(last.text.len() - blanks);
        last.columns = last.columns.saturating_sub(u16::try_from(blanks).unwrap_or(0));
    }
    pieces
}

fn look(cell: &Cell) -> Look {
    let own = colour(cell.fgcolor());
    let letters = own.unwrap_or(if cell.dim() { FAINT } else { LETTERS });
    let behind = colour(cell.bgcolor());
    let is_bold = cell.bold();
    if cell.inverse() {
        Look { colour: behind.unwrap_or(BACKGROUND), behind: Some(letters), is_bold }
    } else {
        Look { colour: letters, behind, is_bold }
    }
}

fn colour(colour: Color) -> Option<&'static str> {
    match colour {
        Color::Idx(number @ 0..16) => PALETTE.get(usize::from(number % 8)).copied(),
        // Nothing of ours uses others.
        Color::Default | Color::Idx(_) | Color::Rgb(..) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn draw(output: &str) -> String {
        picture(output, NonZeroU16::new(3).unwrap(), NonZeroU16::new(20).unwrap())
    }

    #[test]
    fn a_picture_holds_its_text_and_no_marks_of_its_own() {
        let svg = draw("\u{1b}[1;32m✓\u{1b}[0m a <b> & c\r\n");
        assert!(svg.contains("<tspan x=\"20.0\" font-weight=\"bold\" fill=\"#7ee787\">✓</tspan>"), "{svg}");
        assert!(svg.contains("<tspan x=\"28.4\"> a &lt;b&gt; &amp; c</tspan></text>"), "{svg}");
        assert_eq!(svg.matches("<text").count(), 1);
    }

    #[test]
    fn letters_stand_where_the_cursor_was() {
        let svg = draw("\u{1b}[2;5Hx\u{1b}[7m y \u{1b}[0m   \u{1b}[1;1H\u{1b}[2mfaint");
        assert!(svg.contains("<tspan x=\"20.0\" fill=\"#8b98ad\">faint</tspan>"), "{svg}");
        assert!(svg.contains("<tspan x=\"20.0\">    x</tspan>"), "{svg}");
        let (x, top) = (20.0 + 5.0 * LETTER_WIDTH, BAR + LINE_HEIGHT);
        assert!(svg.contains(&format!("<rect x=\"{x:.1}\" y=\"{top:.1}\" width=\"25.2\" height=\"18\"")), "{svg}");
        assert!(svg.contains("fill=\"#10151f\"> y </tspan>"), "{svg}");
    }
}
