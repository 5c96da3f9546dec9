//! `top`: rates and drops of the ports, as they are at the moment.

mod rates;
mod screen;

use std::io::{self, IsTerminal as _};
use std::time::{Duration, Instant};

use ratatui::DefaultTerminal;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;

use super::arguments::{Format, Top};
use super::failure::Failure;
use super::output::Output;
use crate::api::{Client, PortView, query};
pub use rates::Sort;
use rates::{PortRate, rates};
use screen::Screen;

pub async fn top(client: &mut Client, arguments: &Top, output: Output) -> Result<(), Failure> {
    let interval = Duration::from_secs_f64(arguments.interval);
    if arguments.once {
        return once(client, arguments, interval, output).await;
    }
    if matches!(output.format, Format::Json) {
        let message = "--format json is for one table, and not for a live view (add --once)";
        return Err(Failure::new("invalid_request", message));
    }
    if !io::stdout().is_terminal() || !io::stdin().is_terminal() {
        let message = "top needs a terminal, and there is none (add --once for one table)";
        return Err(Failure::new("not_a_terminal", message));
    }
    live(client, arguments, interval).await
}

/// One table, after one interval.
async fn once(client: &mut Client, arguments: &Top, interval: Duration, output: Output) -> Result<(), Failure> {
    let of = arguments.network.as_deref();
    let before = Sample::take(client, of).await?;
    tokio::time::sleep(interval).await;
    let after = Sample::take(client, of).await?;
    let mut rows = after.since(&before);
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
    async fn take(client: &mut Client, of: Option<&str>) -> Result<Self, Failure> {
        let ports = client.get(&format!("/stats{}", query(&[("of", of)]))).await?;
        Ok(Self { ports, at: Instant::now() })
    }

    fn since(&self, before: &Self) -> Vec<PortRate> {
        rates(&before.ports, &self.ports, self.at.duration_since(before.at))
    }
}

/// The terminal, given back as it was whatever happens. A panic gives it back before it says what it is about.
struct Terminal(DefaultTerminal);

impl Terminal {
    fn take() -> Result<Self, Failure> {
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
        // It shows the cursor again.
        let _ = self.0.show_cursor();
        ratatui::restore();
    }
}

fn terminal_failed(error: &io::Error) -> Failure {
    Failure::new("terminal", &format!("cannot use the terminal: {error} (add --once for one table)"))
}

async fn live(client: &mut Client, arguments: &Top, interval: Duration) -> Result<(), Failure> {
    let of = arguments.network.as_deref();
    let mut before = Sample::take(client, of).await?;
    // Before the terminal is taken: from here on no signal ends the process without its being given back.
    let mut ends = Ends::listen().map_err(|error| terminal_failed(&error))?;
    let mut screen = Screen::new(arguments.sort, interval);
    let mut terminal = Terminal::take()?;
    let mut keys = keys();
    let mut ticks = tokio::time::interval(interval);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    // The first is there at once.
    ticks.tick().await;
    terminal.draw(&screen)?;
    loop {
        tokio::select! {
            _ = ticks.tick() => {
                let after = Sample::take(client, of).await?;
                screen.show(after.since(&before));
                before = after;
            }
            event = keys.recv() => match event {
                Some(Event::Key(key)) if key.kind != KeyEventKind::Release => {
                    if is_end(key) {
                        return Ok(());
                    }
                    screen.press(key.code);
                }
                Some(_) => {}
                // The terminal has gone.
                None => return Ok(()),
            },
            () = ends.come() => return Ok(()),
        }
        terminal.draw(&screen)?;
    }
}

/// What is typed, and changes of the terminal's size. Its thread ends with the process: it waits for a key.
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

fn is_end(key: KeyEvent) -> bool {
    let interrupt = key.modifiers.contains(KeyModifiers::CONTROL) && key.code == KeyCode::Char('c');
    interrupt || matches!(key.code, KeyCode::Char('q') | KeyCode::Esc)
}

/// The signals that end it.
struct Ends([Signal; 3]);

impl Ends {
    fn listen() -> io::Result<Self> {
        Ok(Self([signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?, signal(SignalKind::hangup())?]))
    }

    async fn come(&mut self) {
        let [interrupt, terminate, hangup] = &mut self.0;
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
            _ = hangup.recv() => {}
        }
    }
}
