//! One after the other, without each waiting out the same failure.

use std::future::Future;

use tokio::sync::Mutex;
use tokio::time::Instant;

use super::error::ClusterError;

/// Those who want the same thing of etcd, one after the other: at once they would only get into each other's way. Whoever
/// waited while etcd did not answer has its answer, too: the tenth in the queue fails as soon as the first.
#[derive(Debug, Default)]
pub(super) struct Queue {
    /// The last time that etcd did not answer.
    failed: Mutex<Option<(Instant, ClusterError)>>,
}

impl Queue {
    /// Works when it is its turn.
    ///
    /// # Errors
    /// Those of the work, or of one before it that found etcd away.
    pub(super) async fn run<T>(&self, work: impl Future<Output = Result<T, ClusterError>>) -> Result<T, ClusterError> {
        let arrived = Instant::now();
        let mut failed = self.failed.lock().await;
        if let Some((when, error)) = &*failed
            && *when > arrived
        {
            return Err(error.clone());
        }
        let result = work.await;
        if let Err(error) = &result
            && error.is_unreachable()
        {
            *failed = Some((Instant::now(), error.clone()));
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
    async fn those_who_waited_fail_with_the_first_and_those_who_come_later_try_again() {
        let (queue, tries) = (Queue::default(), AtomicUsize::new(0));
        let failing = || async {
            tries.fetch_add(1, Ordering::Relaxed);
            tokio::time::sleep(Duration::from_millis(20)).await;
            let error = |text: &str| text.to_owned();
            Err::<(), _>(ClusterError::Unreachable { endpoints: error("a"), message: error("b"), doing: error("c") })
        };
        let (one, two, three) = tokio::join!(queue.run(failing()), queue.run(failing()), queue.run(failing()));
        assert!(one.is_err() && one == two && two == three);
        assert_eq!(tries.load(Ordering::Relaxed), 1);
        assert_eq!(queue.run(async { Ok(1) }).await, Ok(1));
        assert!(queue.run(failing()).await.is_err());
        assert_eq!(tries.load(Ordering::Relaxed), 2);
    }
}
