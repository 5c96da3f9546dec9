//! Serialises requests that would conflict, and shares an etcd failure among the waiting ones.

use std::future::Future;

use tokio::sync::Mutex;
use tokio::time::Instant;

use super::error::ClusterError;

/// A queue of requests that change the same keys in etcd. In parallel, their transactions would
/// make each other fail. A request that waited while another one found etcd unreachable gets the
/// same error: the tenth in the queue fails as soon as the first.
#[derive(Debug, Default)]
pub(super) struct Queue {
    /// Time and error of the latest request that found etcd unreachable.
    last_failure: Mutex<Option<(Instant, ClusterError)>>,
}

impl Queue {
    /// Runs `work` when all earlier requests are done.
    ///
    /// # Errors
    /// The error of the work, or that of an earlier request that found etcd unreachable while this
    /// one waited.
    pub(super) async fn run<T>(&self, work: impl Future<Output = Result<T, ClusterError>>) -> Result<T, ClusterError> {
        let arrived = Instant::now();
        let mut last_failure = self.last_failure.lock().await;
        if let Some((when, error)) = &*last_failure
            && *when > arrived
        {
            return Err(error.clone());
        }
        let result = work.await;
        if let Err(error) = &result
            && error.is_unreachable()
        {
            *last_failure = Some((Instant::now(), error.clone()));
        }
        result
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn waiting_requests_fail_with_the_first_and_later_ones_try_again() {
        let (queue, tries) = (Queue::default(), AtomicUsize::new(0));
        let failing = || async {
            tries.fetch_add(1, Ordering::Relaxed);
            tokio::time::sleep(Duration::from_millis(20)).await;
            let error = |text: &str| text.to_owned();
            Err::<(), _>(ClusterError::Unreachable { endpoints: error("a"), message: error("b"), purpose: error("c") })
        };
        let (one, two, three) = tokio::join!(queue.run(failing()), queue.run(failing()), queue.run(failing()));
        assert!(one.is_err() && one == two && two == three);
        assert_eq!(tries.load(Ordering::Relaxed), 1);
        assert_eq!(queue.run(async { Ok(1) }).await, Ok(1));
        assert!(queue.run(failing()).await.is_err());
        assert_eq!(tries.load(Ordering::Relaxed), 2);
    }
}
