//! Reads what the programs tell, and hands it on: frames to those who watch, events to those who have subscribed.
//!
//! Nobody here waits for anybody: who does not keep up loses frames, and is told how many.

mod watchers;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::{Notify, mpsc};
use tokio::task::AbortHandle;
use vswitch_common::watch::{Event, Watch};

use crate::datapath::{Datapath, DatapathError, Ring};
use watchers::Watchers;
pub use watchers::{Filter, Seen};

/// Records that are read before others get a turn: a ring that is filled as fast as it is read must not keep a thread.
const TURN: usize = 256;
/// Events that may wait for a subscriber.
const EVENTS: usize = 1024;
/// How long frames may be missing before those who watch are told, if none comes after them.
const MISSING: Duration = Duration::from_millis(250);

/// An event with the frame that it is about, if it is about one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Told {
    /// What happened.
    pub event: Event,
    /// The frame's bytes, without a tag kept beside it; empty for [`Event::HELD`].
    pub bytes: Vec<u8>,
}

/// Why frames and events cannot be followed.
#[derive(Debug, thiserror::Error)]
pub enum WatchingError {
    /// The maps.
    #[error(transparent)]
    Datapath(#[from] DatapathError),
    /// The descriptor of a ring.
    #[error("cannot wait for what the programs tell: {0}")]
    Wait(#[from] std::io::Error),
}

/// Who watches, and who has subscribed to events.
#[derive(Debug)]
pub struct Watching {
    datapath: Arc<Datapath>,
    watchers: Mutex<Watchers>,
    /// Reads the ring of frames while somebody watches.
    reader: Mutex<Option<AbortHandle>>,
    /// Somebody has come to watch.
    came: Notify,
    subscribers: Mutex<Vec<(u32, mpsc::Sender<Told>)>>,
}

impl Watching {
    /// Starts to read the ring of events, for as long as the runtime lives. What an earlier daemon was asked to show is shown no
    /// longer.
    ///
    /// # Errors
    /// The rings are taken or cannot be waited for.
    pub fn start(datapath: &Arc<Datapath>) -> Result<Arc<Self>, WatchingError> {
        datapath.set_watch(Watch::default())?;
        let events = register(datapath.events()?)?;
        let watching = Arc::new(Self {
            datapath: datapath.clone(),
            watchers: Mutex::default(),
            reader: Mutex::default(),
            came: Notify::new(),
            subscribers: Mutex::default(),
        });
        let (told, lost) = (watching.clone(), watching.clone());
        tokio::spawn(follow(events, move |event, bytes| told.tell(event, bytes)));
        tokio::spawn(async move { lost.tell_lost().await });
        Ok(watching)
    }

    /// Watches frames until the watcher is dropped; none if nothing is shown any more.
    ///
    /// # Errors
    /// What the kernel refused.
    pub fn watch(self: &Arc<Self>, filter: Filter) -> Result<Option<Watcher>, WatchingError> {
        let mut watchers = self.watchers();
        let Some((number, frames)) = watchers.add(filter) else { return Ok(None) };
        let shown = self.read().and_then(|()| Ok(self.datapath.set_watch(watchers.union())?));
        if let Err(error) = shown {
            watchers.remove(number);
            self.bring_in_line(&watchers);
            return Err(error);
        }
        drop(watchers);
        self.came.notify_one();
        Ok(Some(Watcher { watching: self.clone(), number, frames }))
    }

    /// Reads the ring of frames from now on, unless somebody does: it takes memory that nobody needs who does not watch.
    fn read(self: &Arc<Self>) -> Result<(), WatchingError> {
        let mut reader = self.reader();
        if reader.is_none() {
            let (frames, shown) = (register(self.datapath.frames()?)?, self.clone());
            let follow = follow(frames, move |event, bytes| shown.watchers().show(&event, &bytes));
            *reader = Some(tokio::spawn(follow).abort_handle());
        }
        Ok(())
    }

    fn reader(&self) -> MutexGuard<'_, Option<AbortHandle>> {
        self.reader.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Events of one kind, [`Event::SNOOPED`] and the like, from now on. A subscriber that does not keep up loses
    /// some.
    pub fn subscribe(&self, kind: u32) -> mpsc::Receiver<Told> {
        let (sender, receiver) = mpsc::channel(EVENTS);
        self.subscribers.lock().unwrap_or_else(PoisonError::into_inner).push((kind, sender));
        receiver
    }

    /// Ends what every watcher sees, and shows nothing to anybody from now on.
    pub fn close(&self) {
        let mut watchers = self.watchers();
        watchers.close();
        self.bring_in_line(&watchers);
    }

    /// Tells of frames that are missing at the end, when no other comes that would.
    async fn tell_lost(&self) {
        loop {
            if self.watchers().is_empty() {
                self.came.notified().await;
            }
            tokio::time::sleep(MISSING).await;
            match self.datapath.unshown() {
                Ok(unshown) => self.watchers().tell_lost(unshown),
                Err(error) => tracing::warn!("frames may be missing without a word: {error}"),
            }
        }
    }

    fn tell(&self, event: Event, bytes: Vec<u8>) {
        let mut subscribers = self.subscribers.lock().unwrap_or_else(PoisonError::into_inner);
        subscribers.retain(|(_, sender)| !sender.is_closed());
        for (_, sender) in subscribers.iter().filter(|(kind, _)| *kind == event.kind) {
            if sender.try_send(Told { event, bytes: bytes.clone() }).is_err() {
                tracing::debug!("an event of kind {} is lost: too many at once", event.kind);
            }
        }
    }

    fn watchers(&self) -> MutexGuard<'_, Watchers> {
        // Every change under the lock is whole before anything in it could panic.
        self.watchers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Shows what those ask for who watch, and nothing where nobody does.
    fn bring_in_line(&self, watchers: &Watchers) {
        if let Err(error) = self.datapath.set_watch(watchers.union()) {
            tracing::warn!("frames are shown that nobody watches any more: {error}");
        }
        if watchers.is_empty()
            && let Some(reader) = self.reader().take()
        {
            reader.abort();
        }
    }
}

/// Somebody who watches. Frames that do not concern anybody else are not shown any more when it is dropped.
#[derive(Debug)]
pub struct Watcher {
    watching: Arc<Watching>,
    number: u64,
    frames: mpsc::Receiver<Seen>,
}

impl Watcher {
    /// What there is to see next; none when nothing is shown any more.
    pub async fn next(&mut self) -> Option<Seen> {
        self.frames.recv().await
    }

    /// What there is to see next, if it is there already.
    pub fn try_next(&mut self) -> Option<Seen> {
        self.frames.try_recv().ok()
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        let mut watchers = self.watching.watchers();
        watchers.remove(self.number);
        self.watching.bring_in_line(&watchers);
    }
}

fn register(ring: Ring) -> Result<AsyncFd<Ring>, WatchingError> {
    // SAFETY: the ring owns its descriptor and keeps the same one as long as it lives.
    let registered = unsafe { AsyncFd::register_with_interest(ring, Interest::READABLE) };
    registered.map_err(|error| WatchingError::Wait(error.into()))
}

/// Reads a ring to its end whenever there is something in it.
async fn follow(mut ring: AsyncFd<Ring>, mut hand_on: impl FnMut(Event, Vec<u8>)) {
    while let Ok(mut ready) = ring.readable_mut().await {
        let mut turn = 0;
        while let Some((event, bytes)) = ready.get_inner_mut().next() {
            hand_on(event, bytes);
            turn += 1;
            if turn % TURN == 0 {
                tokio::task::yield_now().await;
            }
        }
        ready.clear_ready();
    }
}
