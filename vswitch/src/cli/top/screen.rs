//! The screen of `top`: one line per port, with a sparkline of its rate.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use ratatui::Frame;
use ratatui::crossterm::event::KeyCode;
use ratatui::layout::{Constraint, Layout};
use ratatui::style::{Color, Style, Stylize as _};
use ratatui::symbols::bar::NINE_LEVELS;
use ratatui::text::Line;
use ratatui::widgets::{Cell, Row, Table};

use super::rates::{PortRate, Sort, abbreviate};

/// Number of rates kept per port, enough for a wide screen.
const HISTORY_LENGTH: usize = 120;

const KEYS: &str = "q quit  s sort  r/t/d/n by in, out, drops, name  f network  up/down scroll";

/// The state of the screen.
#[derive(Debug)]
pub struct Screen {
    rows: Vec<PortRate>,
    /// The rates of each port, latest last, by network, port and kind.
    history: BTreeMap<Key, VecDeque<f64>>,
    sort: Sort,
    /// The network shown, or `None` for all.
    filter: Option<String>,
    /// The number of rows scrolled off the top.
    scrolled_rows: usize,
    interval: Duration,
}

type Key = (String, String, String);

fn key(row: &PortRate) -> Key {
    (row.network.clone(), row.port.clone(), row.kind.clone())
}

impl Screen {
    pub fn new(sort: Sort, interval: Duration) -> Self {
        Self { rows: Vec::new(), history: BTreeMap::new(), sort, filter: None, scrolled_rows: 0, interval }
    }

    /// Replaces the rows by a new measurement.
    pub fn update(&mut self, mut rows: Vec<PortRate>) {
        self.sort.apply(&mut rows);
        let present: BTreeSet<Key> = rows.iter().map(key).collect();
        self.history.retain(|key, _| present.contains(key));
        for row in &rows {
            let history = self.history.entry(key(row)).or_default();
            if history.len() == HISTORY_LENGTH {
                history.pop_front();
            }
            history.push_back(row.bits());
        }
        self.rows = rows;
    }

    /// Handles a key.
    pub fn press(&mut self, code: KeyCode) {
        match code {
            KeyCode::Char('s') => self.sort = next_sort(self.sort),
            KeyCode::Char('r') => self.sort = Sort::Rx,
            KeyCode::Char('t') => self.sort = Sort::Tx,
            KeyCode::Char('d') => self.sort = Sort::Drops,
            KeyCode::Char('n') => self.sort = Sort::Name,
            KeyCode::Char('f') => {
                self.filter = self.next_network();
                self.scrolled_rows = 0;
            }
            KeyCode::Down => {
                self.scrolled_rows = (self.scrolled_rows + 1).min(self.visible_rows().count().saturating_sub(1));
            }
            KeyCode::Up => self.scrolled_rows = self.scrolled_rows.saturating_sub(1),
            _ => {}
        }
        self.sort.apply(&mut self.rows);
    }

    /// Returns the network after the one shown, or `None` (all) after the last.
    fn next_network(&self) -> Option<String> {
        let networks: BTreeSet<&String> = self.rows.iter().map(|row| &row.network).collect();
        let next = match &self.filter {
            None => networks.into_iter().next(),
            Some(current) => networks.into_iter().find(|network| *network > current),
        };
        next.cloned()
    }

    fn visible_rows(&self) -> impl Iterator<Item = &PortRate> {
        let fits = |network: &String| self.filter.as_ref().is_none_or(|filter| filter == network);
        self.rows.iter().filter(move |row| fits(&row.network))
    }

    pub fn draw(&self, frame: &mut Frame<'_>) {
        let [head, body, foot] =
            Layout::vertical([Constraint::Length(1), Constraint::Fill(1), Constraint::Length(1)]).areas(frame.area());
        frame.render_widget(Line::from(self.head()).bold(), head);
        frame.render_widget(Line::from(KEYS).dim(), foot);
        let names = |text: fn(&PortRate) -> &String, least: usize| {
            let longest = self.visible_rows().map(|row| text(row).chars().count()).max().unwrap_or_default();
            Constraint::Length(longest.clamp(least, 24) as u16)
        };
        let (port, network) = (names(|row| &row.port, 4), names(|row| &row.network, 7));
        let number = Constraint::Length(8);
        let kind = Constraint::Length(8);
        let worst = Constraint::Length(20);
        let widths = [port, kind, network, number, number, number, number, number, worst, Constraint::Min(8)];
        let header = ["PORT", "KIND", "NETWORK", "RX/S", "TX/S", "RX BIT/S", "TX BIT/S", "DROPS/S", "MOST", "RATE"];
        let lines = self.visible_rows().skip(self.scrolled_rows).map(|row| self.format_row(row));
        let table = Table::new(lines, widths).header(Row::new(header).bold().reversed());
        frame.render_widget(table, body);
    }

    fn head(&self) -> String {
        let total = |value: fn(&PortRate) -> f64| abbreviate(self.visible_rows().map(value).sum());
        let (frames, bits) = (total(|row| row.rx_frames_per_second), total(|row| row.rx_bits_per_second));
        let drops = total(|row| row.drops_per_second);
        let network = self.filter.as_deref().unwrap_or("all");
        let seconds = self.interval.as_secs_f64();
        format!(
            "vswitch top  {} ports  network: {network}  in: {frames} frames/s, {bits} bit/s, {drops} drops/s  every {seconds} s",
            self.visible_rows().count()
        )
    }

    fn format_row(&self, row: &PortRate) -> Row<'static> {
        let alarm = if row.drops_per_second > 0.0 { Style::new().fg(Color::Red) } else { Style::new() };
        let cells = row.cells().into_iter().enumerate().map(|(column, text)| {
            let style = if column >= 7 { alarm } else { Style::new() };
            Cell::from(text).style(style)
        });
        let history = self.history.get(&key(row)).map_or_else(String::new, sparkline);
        Row::new(cells.chain([Cell::from(history).style(Style::new().fg(Color::Cyan))]))
    }
}

const fn next_sort(sort: Sort) -> Sort {
    match sort {
        Sort::Rate => Sort::Rx,
        Sort::Rx => Sort::Tx,
        Sort::Tx => Sort::Drops,
        Sort::Drops => Sort::Name,
        Sort::Name => Sort::Rate,
    }
}

/// Formats the values as bars, latest first, so that the oldest are cut off. The highest value is a
/// full bar.
fn sparkline(values: &VecDeque<f64>) -> String {
    let levels = [
        NINE_LEVELS.empty,
        NINE_LEVELS.one_eighth,
        NINE_LEVELS.one_quarter,
        NINE_LEVELS.three_eighths,
        NINE_LEVELS.half,
        NINE_LEVELS.five_eighths,
        NINE_LEVELS.three_quarters,
        NINE_LEVELS.seven_eighths,
        NINE_LEVELS.full,
    ];
    let highest = values.iter().copied().fold(0.0, f64::max);
    let bar = |value: &f64| {
        let eighths = if highest > 0.0 { (value / highest * 8.0).ceil() } else { 0.0 };
        levels[(eighths as usize).min(8)]
    };
    values.iter().rev().map(bar).collect()
}

#[cfg(test)]
mod tests {
    use ratatui::Terminal;
    use ratatui::backend::TestBackend;

    use super::super::rates::{rates, tests::port};
    use super::*;

    fn drawn(screen: &Screen) -> Vec<String> {
        let mut terminal = Terminal::new(TestBackend::new(140, 8)).expect("a terminal in memory");
        terminal.draw(|frame| screen.draw(frame)).expect("drawn");
        let text = terminal.backend().to_string();
        text.lines().map(|line| line.trim_matches('"').trim_end().to_owned()).collect()
    }

    fn measured() -> Screen {
        let mut screen = Screen::new(Sort::Rate, Duration::from_secs(1));
        let ports = [port("web", "front", 10, 0), port("db", "back", 4000, 6)];
        screen.update(rates(&[], &ports, Duration::from_secs(1)));
        screen.update(rates(&[], &[port("web", "front", 5, 0), port("db", "back", 2000, 6)], Duration::from_secs(1)));
        screen
    }

    #[test]
    fn each_port_has_a_row_with_rates_and_history() {
        let lines = drawn(&measured());
        assert!(lines[0].contains("2 ports") && lines[0].contains("network: all"), "{lines:#?}");
        assert!(
            lines[1].starts_with("PORT") && lines[2].starts_with("db") && lines[3].starts_with("web"),
            "{lines:#?}"
        );
        for part in ["2.0k", "1.6M", "9", "storm", "▄█"] {
            assert!(lines[2].contains(part), "{part}: {lines:#?}");
        }
        assert!(lines[7].starts_with("q quit"), "{lines:#?}");
    }

    #[test]
    fn keys_sort_filter_and_scroll() {
        let mut screen = measured();
        screen.press(KeyCode::Char('n'));
        assert!(drawn(&screen)[2].starts_with("db"));
        screen.press(KeyCode::Down);
        assert!(drawn(&screen)[2].starts_with("web"));
        screen.press(KeyCode::Down);
        assert!(drawn(&screen)[2].starts_with("web"), "the last stays");
        screen.press(KeyCode::Char('f'));
        let lines = drawn(&screen);
        assert!(lines[0].contains("network: back") && lines[2].starts_with("db") && lines[3].is_empty(), "{lines:#?}");
        screen.press(KeyCode::Char('f'));
        assert!(drawn(&screen)[2].starts_with("web"));
        screen.press(KeyCode::Char('f'));
        assert!(drawn(&screen)[0].contains("network: all"));
        for sort in [Sort::Rate, Sort::Rx, Sort::Tx, Sort::Drops, Sort::Name] {
            screen.press(KeyCode::Char('s'));
            assert_eq!(screen.sort, sort);
        }
    }

    #[test]
    fn history_is_bounded_and_removed_with_its_port() {
        let mut screen = measured();
        for _ in 0..2 * HISTORY_LENGTH {
            screen.update(rates(&[], &[port("web", "front", 10, 0)], Duration::from_secs(1)));
        }
        assert_eq!(
            (screen.history.len(), screen.history.values().next().map(VecDeque::len)),
            (1, Some(HISTORY_LENGTH))
        );
        assert_eq!(sparkline(&VecDeque::from([0.0, 0.0])), "  ");
        // A very small screen must not cause a panic.
        let mut terminal = Terminal::new(TestBackend::new(3, 1)).expect("a terminal in memory");
        terminal.draw(|frame| screen.draw(frame)).expect("drawn");
    }
}
