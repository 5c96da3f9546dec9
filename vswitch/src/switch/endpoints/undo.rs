//! The undo stack of a change.

use std::pin::Pin;

/// Undoes one step.
type Action<'a> = Pin<Box<dyn Future<Output = ()> + Send + 'a>>;

/// The actions that undo the steps of a change. A change that fails runs them in reverse; one that
/// succeeds drops them.
#[derive(Default)]
pub struct Undo<'a> {
    actions: Vec<Action<'a>>,
}

impl<'a> Undo<'a> {
    /// Adds the action that undoes the step just done. It owns what has to stay locked until it has
    /// run.
    pub fn push(&mut self, action: impl Future<Output = ()> + Send + 'a) {
        self.actions.push(Box::pin(action));
    }

    /// Returns a mark for [`Undo::run_to`].
    pub fn mark(&self) -> usize {
        self.actions.len()
    }

    /// Undoes the steps since a mark, the last first.
    pub async fn run_to(&mut self, mark: usize) {
        while self.actions.len() > mark {
            if let Some(action) = self.actions.pop() {
                action.await;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    #[tokio::test]
    async fn actions_run_in_reverse_down_to_the_mark() {
        let ran = Mutex::new(Vec::new());
        let record = |step: u8| {
            let ran = &ran;
            async move { ran.lock().expect("no panic").push(step) }
        };
        let mut undo = Undo::default();
        undo.push(record(1));
        let mark = undo.mark();
        undo.push(record(2));
        undo.push(record(3));
        undo.run_to(mark).await;
        assert_eq!(*ran.lock().expect("no panic"), [3, 2]);
        undo.push(record(4));
        undo.run_to(0).await;
        assert_eq!(*ran.lock().expect("no panic"), [3, 2, 4, 1]);
    }

    #[tokio::test]
    async fn actions_of_a_change_that_succeeded_do_not_run() {
        let ran = Mutex::new(false);
        let mut undo = Undo::default();
        undo.push(async { *ran.lock().expect("no panic") = true });
        drop(undo);
        assert!(!*ran.lock().expect("no panic"));
    }
}
