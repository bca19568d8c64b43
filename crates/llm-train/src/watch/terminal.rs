//! The terminal as something to draw on: stderr with ANSI escapes (ECMA-48, and xterm's alternate screen), keys without Enter.
//!
//! A backend of our own instead of crossterm's: that one switches on features of crates below Burn, and everybody would compile Burn twice;
//! and a dashboard needs neither a mouse nor function keys. Ctrl-C stays a signal, as it is without the dashboard.

use ratatui::backend::{Backend, ClearType, WindowSize};
use ratatui::buffer::Cell;
use ratatui::layout::{Position, Size};
use ratatui::style::{Color, Modifier};
use std::io::{self, IsTerminal, Write};
use std::sync::{Mutex, Once, PoisonError};

const ENTER: &[u8] = b"\x1b[?1049h\x1b[?25l\x1b[2J";
const LEAVE: &[u8] = b"\x1b[0m\x1b[?25h\x1b[?1049l";
/// Width and height where nobody tells.
const USUAL: (u16, u16) = (80, 24);

/// Settings of the terminal before we changed them.
#[cfg(unix)]
static BEFORE: Mutex<Option<rustix::termios::Termios>> = Mutex::new(None);
#[cfg(not(unix))]
static BEFORE: Mutex<Option<()>> = Mutex::new(None);

/// Columns and rows of the terminal; 80 x 24 if stderr is none.
pub fn size() -> (u16, u16) {
    #[cfg(unix)]
    if let Ok(size) = rustix::termios::tcgetwinsize(io::stderr())
        && size.ws_col > 0
        && size.ws_row > 0
    {
        return (size.ws_col, size.ws_row);
    }
    USUAL
}

/// Take the screen; the error says why not.
pub fn enter() -> Result<(), String> {
    if !(io::stderr().is_terminal() && io::stdin().is_terminal()) {
        return Err("stdin and stderr are no terminal".into());
    }
    if std::env::var("TERM").is_ok_and(|term| term == "dumb") {
        return Err("TERM is dumb".into());
    }
    #[cfg(not(unix))]
    return Err("it needs a Unix terminal".into());
    #[cfg(unix)]
    {
        use rustix::termios::{LocalModes, OptionalActions, tcgetattr, tcsetattr};
        let before = tcgetattr(io::stdin()).map_err(|e| e.to_string())?;
        let mut keys = before.clone();
        keys.local_modes -= LocalModes::ICANON | LocalModes::ECHO;
        tcsetattr(io::stdin(), OptionalActions::Now, &keys).map_err(|e| e.to_string())?;
        *BEFORE.lock().unwrap_or_else(PoisonError::into_inner) = Some(before);
        static HOOK: Once = Once::new();
        HOOK.call_once(|| {
            let next = std::panic::take_hook();
            std::panic::set_hook(Box::new(move |info| {
                // First, so that the message is on the screen that stays.
                leave();
                next(info);
            }));
        });
        llm_run::program::full_screen(Some(leave));
        io::stderr().write_all(ENTER).map_err(|e| e.to_string())
    }
}

/// Give the screen back; nothing if it was not taken.
pub fn leave() {
    let before = BEFORE.lock().unwrap_or_else(PoisonError::into_inner).take();
    if let Some(before) = before {
        #[cfg(unix)]
        let _ = rustix::termios::tcsetattr(io::stdin(), rustix::termios::OptionalActions::Now, &before);
        #[cfg(not(unix))]
        let () = before;
        let _ = io::stderr().write_all(LEAVE);
        llm_run::program::full_screen(None);
    }
}

/// Whether the screen is taken.
pub fn is_taken() -> bool {
    BEFORE.lock().unwrap_or_else(PoisonError::into_inner).is_some()
}

/// Draws cells; everything goes out in one write per frame.
#[derive(Debug)]
pub struct Ansi<W> {
    out: W,
    buffer: Vec<u8>,
}

impl<W: Write> Ansi<W> {
    /// Onto a terminal.
    pub fn new(out: W) -> Self {
        Self { out, buffer: Vec::with_capacity(1 << 14) }
    }
}

fn colour(buffer: &mut Vec<u8>, colour: Color, base: u8) -> io::Result<()> {
    let basic = |n: u8| if n < 8 { base + n } else { base + 60 + n - 8 };
    let number = match colour {
        Color::Reset => return write!(buffer, ";{}", base + 9),
        Color::Rgb(r, g, b) => return write!(buffer, ";{};2;{r};{g};{b}", base + 8),
        Color::Indexed(i) => return write!(buffer, ";{};5;{i}", base + 8),
        Color::Black => 0,
        Color::Red => 1,
        Color::Green => 2,
        Color::Yellow => 3,
        Color::Blue => 4,
        Color::Magenta => 5,
        Color::Cyan => 6,
        Color::Gray => 7,
        Color::DarkGray => 8,
        Color::LightRed => 9,
        Color::LightGreen => 10,
        Color::LightYellow => 11,
        Color::LightBlue => 12,
        Color::LightMagenta => 13,
        Color::LightCyan => 14,
        Color::White => 15,
    };
    write!(buffer, ";{}", basic(number))
}

fn style(buffer: &mut Vec<u8>, cell: &Cell) -> io::Result<()> {
    buffer.extend_from_slice(b"\x1b[0");
    for (modifier, code) in [(Modifier::BOLD, 1), (Modifier::DIM, 2), (Modifier::ITALIC, 3), (Modifier::UNDERLINED, 4), (Modifier::REVERSED, 7)] {
        if cell.modifier.contains(modifier) {
            write!(buffer, ";{code}")?;
        }
    }
    colour(buffer, cell.fg, 30)?;
    colour(buffer, cell.bg, 40)?;
    buffer.push(b'm');
    Ok(())
}

impl<W: Write> Backend for Ansi<W> {
    type Error = io::Error;

    fn draw<'a, I: Iterator<Item = (u16, u16, &'a Cell)>>(&mut self, content: I) -> io::Result<()> {
        let (mut next, mut last): (Option<(u16, u16)>, Option<&Cell>) = (None, None);
        for (x, y, cell) in content {
            if next != Some((x, y)) {
                write!(self.buffer, "\x1b[{};{}H", y + 1, x + 1)?;
            }
            if last.is_none_or(|l| (l.fg, l.bg, l.modifier) != (cell.fg, cell.bg, cell.modifier)) {
                style(&mut self.buffer, cell)?;
            }
            // Text of documents and models must not reach the terminal as a command.
            let symbol = cell.symbol();
            let harmless = !symbol.chars().any(char::is_control);
            self.buffer.extend_from_slice(if harmless { symbol.as_bytes() } else { b" " });
            (next, last) = ((symbol.len() == 1).then_some((x + 1, y)), Some(cell));
        }
        Ok(())
    }

    fn hide_cursor(&mut self) -> io::Result<()> {
        self.buffer.extend_from_slice(b"\x1b[?25l");
        Ok(())
    }

    fn show_cursor(&mut self) -> io::Result<()> {
        self.buffer.extend_from_slice(b"\x1b[?25h");
        Ok(())
    }

    fn get_cursor_position(&mut self) -> io::Result<Position> {
        Ok(Position::ORIGIN)
    }

    fn set_cursor_position<P: Into<Position>>(&mut self, position: P) -> io::Result<()> {
        let Position { x, y } = position.into();
        write!(self.buffer, "\x1b[{};{}H", y + 1, x + 1)
    }

    fn clear(&mut self) -> io::Result<()> {
        self.clear_region(ClearType::All)
    }

    fn clear_region(&mut self, region: ClearType) -> io::Result<()> {
        self.buffer.extend_from_slice(match region {
            ClearType::All => b"\x1b[0m\x1b[2J",
            ClearType::AfterCursor => b"\x1b[0m\x1b[0J",
            ClearType::BeforeCursor => b"\x1b[0m\x1b[1J",
            ClearType::CurrentLine => b"\x1b[0m\x1b[2K",
            ClearType::UntilNewLine => b"\x1b[0m\x1b[0K",
        });
        Ok(())
    }

    fn size(&self) -> io::Result<Size> {
        let (width, height) = size();
        Ok(Size { width, height })
    }

    fn window_size(&mut self) -> io::Result<WindowSize> {
        Ok(WindowSize { columns_rows: self.size()?, pixels: Size::default() })
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.write_all(&self.buffer)?;
        self.buffer.clear();
        self.out.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ratatui::style::Style;

    /// If this fails, the dashboard is drawn in the wrong place or colour, or a model's output can command the terminal.
    #[test]
    fn cells_become_escapes() {
        let cell = |symbol: &str, style: Style| {
            let mut cell = Cell::default();
            cell.set_symbol(symbol).set_style(style);
            cell
        };
        let red = Style::new().fg(Color::Red).add_modifier(Modifier::BOLD);
        let cells = [(0, 0, cell("a", red)), (1, 0, cell("b", red)), (5, 2, cell("\u{1b}", Style::new().bg(Color::LightBlue)))];
        let mut out = Vec::new();
        let mut ansi = Ansi::new(&mut out);
        ansi.draw(cells.iter().map(|(x, y, c)| (*x, *y, c))).unwrap();
        ansi.flush().unwrap();
        drop(ansi);
        assert_eq!(String::from_utf8(out).unwrap(), "\x1b[1;1H\x1b[0;1;31;49mab\x1b[3;6H\x1b[0;39;104m ");
    }

    #[test]
    fn without_a_terminal_there_is_no_dashboard() {
        if !io::stderr().is_terminal() {
            assert!(enter().unwrap_err().contains("no terminal"));
            assert!(!is_taken());
        }
    }
}
