//! The terminal: lent while the dashboard is shown, put back as it was however that ends; and the keys pressed on it.

use std::io;

use ratatui::DefaultTerminal;
use ratatui::crossterm::event::{self, Event as Input, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use tokio::sync::mpsc::Sender;

use super::state::{Size, State};
use super::update::{Event, Key};
use super::view;

/// A terminal in raw mode that shows another screen. Dropped, it is put back.
pub(super) struct Terminal {
    terminal: DefaultTerminal,
}

impl Terminal {
    /// Takes it; a panic puts it back, too.
    pub(super) fn open() -> io::Result<Self> {
        Ok(Self { terminal: ratatui::try_init()? })
    }

    /// How large it is.
    pub(super) fn size(&self) -> io::Result<Size> {
        let size = self.terminal.size()?;
        Ok(Size { columns: size.width, lines: size.height })
    }

    /// Shows a state.
    pub(super) fn draw(&mut self, state: &State) -> io::Result<()> {
        self.terminal.draw(|frame| view::draw(state, frame)).map(|_| ())
    }

    /// The next time everything is drawn, whatever somebody else wrote there.
    pub(super) fn clear(&mut self) -> io::Result<()> {
        self.terminal.clear()
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // A terminal that is gone needs nothing.
        let _ = ratatui::try_restore();
    }
}

/// Tells of keys and sizes, on a thread of its own, until nobody listens or the terminal is gone.
pub(super) fn read_keys(events: Sender<Event>) {
    std::thread::spawn(move || {
        loop {
            let event = match event::read() {
                Ok(input) => event_of(&input),
                Err(_) => Some(Event::Ended),
            };
            let is_last = event == Some(Event::Ended);
            let is_heard = event.is_none_or(|event| events.blocking_send(event).is_ok());
            if is_last || !is_heard {
                return;
            }
        }
    });
}

fn event_of(input: &Input) -> Option<Event> {
    match input {
        Input::Key(pressed) => key_of(pressed).map(Event::Key),
        Input::Resize(columns, lines) => Some(Event::Resized(Size { columns: *columns, lines: *lines })),
        Input::FocusGained | Input::FocusLost | Input::Mouse(_) | Input::Paste(_) => None,
    }
}

#[expect(clippy::wildcard_enum_match_arm, reason = "keyboards have keys that mean nothing here")]
fn key_of(pressed: &KeyEvent) -> Option<Key> {
    if pressed.kind == KeyEventKind::Release {
        return None;
    }
    if pressed.modifiers.intersects(KeyModifiers::CONTROL | KeyModifiers::ALT) {
        let is_control = pressed.modifiers.contains(KeyModifiers::CONTROL);
        return match pressed.code {
            KeyCode::Char('c') if is_control => Some(Key::Interrupt),
            KeyCode::Char('l') if is_control => Some(Key::Redraw),
            _ => None,
        };
    }
    match pressed.code {
        KeyCode::Char(letter) => Some(Key::Char(letter)),
        KeyCode::Enter => Some(Key::Enter),
        KeyCode::Esc => Some(Key::Escape),
        KeyCode::Tab => Some(Key::Tab),
        KeyCode::BackTab => Some(Key::BackTab),
        KeyCode::Backspace => Some(Key::Backspace),
        KeyCode::Up => Some(Key::Up),
        KeyCode::Down => Some(Key::Down),
        KeyCode::Left => Some(Key::Left),
        KeyCode::Right => Some(Key::Right),
        KeyCode::PageUp => Some(Key::PageUp),
        KeyCode::PageDown => Some(Key::PageDown),
        KeyCode::Home => Some(Key::Home),
        KeyCode::End => Some(Key::End),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_read_once_and_only_those_that_mean_something() {
        let check = |code: KeyCode, modifiers: KeyModifiers, expected: Option<Key>| {
            assert_eq!(key_of(&KeyEvent::new(code, modifiers)), expected, "{code:?} {modifiers:?}");
        };
        check(KeyCode::Char('S'), KeyModifiers::SHIFT, Some(Key::Char('S')));
        check(KeyCode::Char('c'), KeyModifiers::NONE, Some(Key::Char('c')));
        check(KeyCode::Char('c'), KeyModifiers::CONTROL, Some(Key::Interrupt));
        check(KeyCode::Char('k'), KeyModifiers::CONTROL, None);
        check(KeyCode::Char('k'), KeyModifiers::ALT, None);
        check(KeyCode::F(5), KeyModifiers::NONE, None);
        let released = KeyEvent::new_with_kind(KeyCode::Char('k'), KeyModifiers::NONE, KeyEventKind::Release);
        assert_eq!(key_of(&released), None);
    }
}
