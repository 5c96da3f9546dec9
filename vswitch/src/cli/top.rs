//! `top`: current rates and drops of the ports.

mod rates;
mod screen;

use std::io::{self, IsTerminal as _};
use std::time::{Duration, Instant};

use clap::Args;
use clap::builder::NonEmptyStringValueParser;
use ratatui::DefaultTerminal;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;

use super::failure::Failure;
use super::output::{Format, Output};
use crate::api::{Client, PortView, query};
use rates::{PortRate, Sort, rates};
use screen::Screen;

#[derive(Debug, Args)]
pub struct Top {
    /// Only the ports of this network, or only this endpoint
    #[arg(value_name = "NETWORK", value_parser = NonEmptyStringValueParser::new())]
    pub network: Option<String>,
    /// Print one table after one interval, and exit
    #[arg(long)]
    pub once: bool,
    /// The interval between measurements, from 0.1 to 3600 seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 1.0, value_parser = seconds)]
    pub interval: f64,
    /// The column to sort by
    #[arg(long, value_enum, default_value_t)]
    pub sort: Sort,
}

fn seconds(text: &str) -> Result<f64, String> {
    let seconds: Option<f64> = text.parse().ok().filter(|seconds| (0.1..=3600.0).contains(seconds));
    seconds.ok_or_else(|| "not a number of seconds from 0.1 to 3600".to_owned())
}

pub async fn top(client: &mut Client, arguments: &Top, output: Output) -> Result<(), Failure> {
    let interval = Duration::from_secs_f64(arguments.interval);
    if arguments.once {
        return once(client, arguments, interval, output).await;
    }
    if matches!(output.format, Format::Json) {
        let message = "--format json does not support the live view (add --once for one table)";
        return Err(Failure::new("invalid_request", message));
    }
    if !io::stdout().is_terminal() || !io::stdin().is_terminal() {
        let message = "top requires a terminal for stdin and stdout (add --once for one table)";
        return Err(Failure::new("not_a_terminal", message));
    }
    live(client, arguments, interval).await
}

/// Prints one table after one interval.
async fn once(client: &mut Client, arguments: &Top, interval: Duration, output: Output) -> Result<(), Failure> {
    let target = arguments.network.as_deref();
    let before = Sample::take(client, target).await?;
    tokio::time::sleep(interval).await;
    let after = Sample::take(client, target).await?;
    let mut rows = after.rates_since(&before);
    arguments.sort.apply(&mut rows);
    let header = ["PORT", "KIND", "NETWORK", "RX/S", "TX/S", "RX BIT/S", "TX BIT/S", "DROPS/S", "MOST"];
    output.rows(&rows, |row| row.port.clone(), header, PortRate::cells)
}

/// The counters at one moment.
struct Sample {
    ports: Vec<PortView>,
    at: Instant,
}

impl Sample {
    async fn take(client: &mut Client, target: Option<&str>) -> Result<Self, Failure> {
        let ports = client.get(&format!("/stats{}", query(&[("of", target)]))).await?;
        Ok(Self { ports, at: Instant::now() })
    }

    fn rates_since(&self, before: &Self) -> Vec<PortRate> {
        rates(&before.ports, &self.ports, self.at.duration_since(before.at))
    }
}

/// The terminal in raw mode. It is restored on drop, and after a panic before the panic message is
/// printed.
struct Terminal(DefaultTerminal);

impl Terminal {
    fn enter() -> Result<Self, Failure> {
        ratatui::try_init().map(Self).map_err(|error| {
            ratatui::restore();
            terminal_failed(&error)
        })
    }

    fn draw(&mut self, screen: &Screen) -> Result<(), Failure> {
        self.0.draw(|frame| screen.draw(frame)).map(drop).map_err(|error| terminal_failed(&error))
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // Makes the cursor visible again.
        let _ = self.0.show_cursor();
        ratatui::restore();
    }
}

fn terminal_failed(error: &io::Error) -> Failure {
    Failure::new("terminal", &format!("cannot use the terminal: {error} (add --once for one table)"))
}

async fn live(client: &mut Client, arguments: &Top, interval: Duration) -> Result<(), Failure> {
    let target = arguments.network.as_deref();
    let mut before = Sample::take(client, target).await?;
    // The signals are caught before the terminal is changed, so none can end the process without
    // restoring it.
    let mut end_signals = EndSignals::install().map_err(|error| terminal_failed(&error))?;
    let mut screen = Screen::new(arguments.sort, interval);
    let mut terminal = Terminal::enter()?;
    let mut keys = keys();
    let mut ticks = tokio::time::interval(interval);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    // The first tick completes at once.
    ticks.tick().await;
    terminal.draw(&screen)?;
    loop {
        tokio::select! {
            _ = ticks.tick() => {
                let after = Sample::take(client, target).await?;
                screen.update(after.rates_since(&before));
                before = after;
            }
            event = keys.recv() => match event {
                Some(Event::Key(key)) if key.kind != KeyEventKind::Release => {
                    if is_quit_key(key) {
                        return Ok(());
                    }
                    screen.press(key.code);
                }
                Some(_) => {}
                // The terminal is gone.
                None => return Ok(()),
            },
            () = end_signals.received() => return Ok(()),
        }
        terminal.draw(&screen)?;
    }
}

/// Reads keys and size changes in a thread. The thread blocks on input and ends with the process.
fn keys() -> mpsc::UnboundedReceiver<Event> {
    let (sender, receiver) = mpsc::unbounded_channel();
    std::thread::spawn(move || {
        while let Ok(event) = event::read() {
            if sender.send(event).is_err() {
                return;
            }
        }
    });
    receiver
}

fn is_quit_key(key: KeyEvent) -> bool {
    let interrupt = key.modifiers.contains(KeyModifiers::CONTROL) && key.code == KeyCode::Char('c');
    interrupt || matches!(key.code, KeyCode::Char('q') | KeyCode::Esc)
}

/// The signals that end `top`.
struct EndSignals([Signal; 3]);

impl EndSignals {
    fn install() -> io::Result<Self> {
        Ok(Self([signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?, signal(SignalKind::hangup())?]))
    }

    async fn received(&mut self) {
        let [interrupt, terminate, hangup] = &mut self.0;
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
            _ = hangup.recv() => {}
        }
    }
}
