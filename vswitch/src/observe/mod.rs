//! Reads the rings of the programs: frames go to observations, events to subscribers.
//!
//! No reader waits for a receiver: an observation that is too slow loses frames, and gets their
//! number.

mod observations;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::{Notify, mpsc};
use tokio::task::AbortHandle;
use vswitch_common::observe::{Event, FrameFilter};

use crate::datapath::{Datapath, DatapathError, Ring};
use observations::Observations;
pub use observations::{Filter, Seen};

/// The records that are read before other tasks run: a ring that fills as fast as it is read must
/// not keep a thread.
const TURN: usize = 256;
/// The most events that wait for a subscriber.
const EVENTS: usize = 1024;
/// The delay after which lost frames are reported if no further frame comes.
const MISSING: Duration = Duration::from_millis(250);

/// An event, with its frame if it has one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Observed {
    /// The event.
    pub event: Event,
    /// The bytes of the frame, without a tag kept beside it; empty for [`Event::HELD`].
    pub bytes: Vec<u8>,
}

/// The reason why frames and events cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ObserveError {
    /// The maps.
    #[error(transparent)]
    Datapath(#[from] DatapathError),
    /// The descriptor of a ring.
    #[error("cannot wait for what the programs tell: {0}")]
    Wait(#[from] std::io::Error),
}

/// The reader of both rings, with all observations and subscribers.
#[derive(Debug)]
pub struct Observer {
    datapath: Arc<Datapath>,
    observations: Mutex<Observations>,
    /// Reads the ring of frames while an observation exists.
    reader: Mutex<Option<AbortHandle>>,
    /// Signalled when an observation begins.
    came: Notify,
    subscribers: Mutex<Vec<(u32, mpsc::Sender<Observed>)>>,
}

impl Observer {
    /// Starts to read the ring of events, for as long as the runtime lives. Ends the observations
    /// of an earlier daemon.
    ///
    /// # Errors
    /// The rings are in use already, or cannot be awaited.
    pub fn start(datapath: &Arc<Datapath>) -> Result<Arc<Self>, ObserveError> {
        datapath.set_watch(FrameFilter::default())?;
        let events = register(datapath.events()?)?;
        let observer = Arc::new(Self {
            datapath: datapath.clone(),
            observations: Mutex::default(),
            reader: Mutex::default(),
            came: Notify::new(),
            subscribers: Mutex::default(),
        });
        let (told, lost) = (observer.clone(), observer.clone());
        tokio::spawn(follow(events, move |event, bytes| told.tell(event, bytes)));
        tokio::spawn(async move { lost.tell_lost().await });
        Ok(observer)
    }

    /// Observes frames until the observation is dropped. Returns `None` after [`Observer::close`].
    ///
    /// # Errors
    /// The kernel refused a change.
    pub fn observe(self: &Arc<Self>, filter: Filter) -> Result<Option<Observation>, ObserveError> {
        let mut observations = self.observations();
        let Some((number, frames)) = observations.add(filter) else { return Ok(None) };
        let shown = self.read().and_then(|()| Ok(self.datapath.set_watch(observations.union())?));
        if let Err(error) = shown {
            observations.remove(number);
            self.bring_in_line(&observations);
            return Err(error);
        }
        drop(observations);
        self.came.notify_one();
        Ok(Some(Observation { observer: self.clone(), number, frames }))
    }

    /// Starts to read the ring of frames, unless it is read already. Its memory is needed for
    /// observations only.
    fn read(self: &Arc<Self>) -> Result<(), ObserveError> {
        let mut reader = self.reader();
        if reader.is_none() {
            let (frames, shown) = (register(self.datapath.frames()?)?, self.clone());
            let follow = follow(frames, move |event, bytes| shown.observations().show(&event, &bytes));
            *reader = Some(tokio::spawn(follow).abort_handle());
        }
        Ok(())
    }

    fn reader(&self) -> MutexGuard<'_, Option<AbortHandle>> {
        self.reader.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the events of one kind, such as [`Event::SNOOPED`], from now on. A subscriber that
    /// is too slow loses some.
    pub fn subscribe(&self, kind: u32) -> mpsc::Receiver<Observed> {
        let (sender, receiver) = mpsc::channel(EVENTS);
        self.subscribers.lock().unwrap_or_else(PoisonError::into_inner).push((kind, sender));
        receiver
    }

    /// Ends all observations, and refuses new ones.
    pub fn close(&self) {
        let mut observations = self.observations();
        observations.close();
        self.bring_in_line(&observations);
    }

    /// Reports lost frames that no further frame follows.
    async fn tell_lost(&self) {
        loop {
            if self.observations().is_empty() {
                self.came.notified().await;
            }
            tokio::time::sleep(MISSING).await;
            match self.datapath.unshown() {
                Ok(unshown) => self.observations().tell_lost(unshown),
                Err(error) => tracing::warn!("cannot count the frames that were not shown: {error}"),
            }
        }
    }

    fn tell(&self, event: Event, bytes: Vec<u8>) {
        let mut subscribers = self.subscribers.lock().unwrap_or_else(PoisonError::into_inner);
        subscribers.retain(|(_, sender)| !sender.is_closed());
        for (_, sender) in subscribers.iter().filter(|(kind, _)| *kind == event.kind) {
            if sender.try_send(Observed { event, bytes: bytes.clone() }).is_err() {
                tracing::debug!("an event of kind {} is lost: too many at once", event.kind);
            }
        }
    }

    fn observations(&self) -> MutexGuard<'_, Observations> {
        // Every change under the lock is complete before any code in it could panic.
        self.observations.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sets the frames that the programs show to those that the observations need.
    fn bring_in_line(&self, observations: &Observations) {
        if let Err(error) = self.datapath.set_watch(observations.union()) {
            tracing::warn!("cannot stop the programs from showing frames: {error}");
        }
        if observations.is_empty()
            && let Some(reader) = self.reader().take()
        {
            reader.abort();
        }
    }
}

/// An observation of frames. Dropping it ends it.
#[derive(Debug)]
pub struct Observation {
    observer: Arc<Observer>,
    number: u64,
    frames: mpsc::Receiver<Seen>,
}

impl Observation {
    /// Waits for the next item; `None` after [`Observer::close`].
    pub async fn next(&mut self) -> Option<Seen> {
        self.frames.recv().await
    }

    /// Returns the next item if one is waiting.
    pub fn try_next(&mut self) -> Option<Seen> {
        self.frames.try_recv().ok()
    }
}

impl Drop for Observation {
    fn drop(&mut self) {
        let mut observations = self.observer.observations();
        observations.remove(self.number);
        self.observer.bring_in_line(&observations);
    }
}

fn register(ring: Ring) -> Result<AsyncFd<Ring>, ObserveError> {
    // SAFETY: the ring owns its descriptor and keeps the same one as long as it lives.
    let registered = unsafe { AsyncFd::register_with_interest(ring, Interest::READABLE) };
    registered.map_err(|error| ObserveError::Wait(error.into()))
}

/// Reads a ring to its end whenever it has records.
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
