//! Owns every task of the agent: names it, notices its end, stops all of them in order.
//!
//! ```text
//!  source ──Facts──> bgp <──Announcements── reconciler ──Report──> control socket, http, pulse
//!    1                2                         3                     4        4      4
//! ```
//!
//! Stopping goes from right to left: nobody is answered from state nobody keeps any more, and the
//! reconciler ends between two changes. A task that ends by itself, whatever the way, ends the
//! process with an error: a supervisor outside starts it again, and forwarding goes on meanwhile.

use std::{error::Error, fmt, future::Future, time::Duration};

use tokio::{
    signal::unix::{SignalKind, signal},
    sync::watch,
    task::{JoinError, JoinHandle},
    time::timeout,
};
use tracing::{debug, error, warn};

/// How long a task may take to stop before it is cut off.
const STOP_TIMEOUT: Duration = Duration::from_secs(5);

/// A task ended although nobody asked it to. Fate: the process stops with exit code 1.
#[derive(Debug, thiserror::Error)]
#[error("task {task} ended: {how}")]
pub struct TaskEnded {
    /// Its name.
    pub task: &'static str,
    /// How it ended.
    pub how: Ending,
}

/// How a task ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ending {
    /// It returned.
    Returned,
    /// It returned an error.
    Failed(String),
    /// It panicked.
    Panicked(String),
}

impl fmt::Display for Ending {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Returned => f.write_str("without being asked to"),
            Self::Failed(error) => f.write_str(error),
            Self::Panicked(message) => write!(f, "panic: {message}"),
        }
    }
}

/// A running task.
#[derive(Debug)]
struct Task {
    name: &'static str,
    stop: watch::Sender<bool>,
    patience: Duration,
    handle: JoinHandle<Ending>,
}

/// All tasks, in the order they were started.
#[derive(Debug, Default)]
pub struct Supervisor {
    tasks: Vec<Task>,
}

impl Supervisor {
    /// Starts a task. It has to end soon after its receiver shows `true`.
    pub fn start<F, E>(&mut self, name: &'static str, task: impl FnOnce(watch::Receiver<bool>) -> F)
    where
        F: Future<Output = Result<(), E>> + Send + 'static,
        E: Error + 'static,
    {
        self.start_patiently(name, STOP_TIMEOUT, task);
    }

    /// As [`Supervisor::start`], for a task that may take `patience` to end.
    pub fn start_patiently<F, E>(
        &mut self,
        name: &'static str,
        patience: Duration,
        task: impl FnOnce(watch::Receiver<bool>) -> F,
    ) where
        F: Future<Output = Result<(), E>> + Send + 'static,
        E: Error + 'static,
    {
        let (stop, stopped) = watch::channel(false);
        let task = task(stopped);
        let handle = tokio::spawn(async move {
            match task.await {
                Ok(()) => Ending::Returned,
                Err(error) => Ending::Failed(chain(&error)),
            }
        });
        self.tasks.push(Task {
            name,
            stop,
            patience,
            handle,
        });
    }

    /// Takes over a task that runs already and may be aborted at any point.
    pub fn adopt(&mut self, name: &'static str, task: JoinHandle<()>) {
        let (stop, mut stopped) = watch::channel(false);
        let handle = tokio::spawn(async move {
            let mut task = AbortOnDrop(task);
            tokio::select! {
                ended = &mut task.0 => ended.map_or_else(panicked, |()| Ending::Returned),
                _ = stopped.wait_for(|stop| *stop) => Ending::Returned,
            }
        });
        self.tasks.push(Task {
            name,
            stop,
            patience: STOP_TIMEOUT,
            handle,
        });
    }

    /// Runs until `shutdown` is ready or a task ends, then stops what still runs.
    ///
    /// # Errors
    /// A task ended by itself.
    pub async fn run(mut self, shutdown: impl Future<Output = ()>) -> Result<(), TaskEnded> {
        let ended = tokio::select! {
            () = shutdown => None,
            ended = self.first_end() => Some(ended),
        };
        if let Some(TaskEnded { task, how }) = &ended {
            error!(task, error = %how, "task ended, stopping");
        }
        self.stop().await;
        ended.map_or(Ok(()), Err)
    }

    async fn first_end(&mut self) -> TaskEnded {
        let handles = self.tasks.iter_mut().map(|task| &mut task.handle);
        let (ended, index, _) = futures::future::select_all(handles).await;
        let task = self.tasks.remove(index);
        TaskEnded {
            task: task.name,
            how: ended.unwrap_or_else(panicked),
        }
    }

    /// The last one started stops first.
    async fn stop(mut self) {
        while let Some(Task {
            name,
            stop,
            patience,
            mut handle,
        }) = self.tasks.pop()
        {
            stop.send_replace(true);
            match timeout(patience, &mut handle).await {
                Ok(Ok(Ending::Returned)) => debug!(task = name, "task stopped"),
                Ok(ended) => {
                    let how = ended.unwrap_or_else(panicked);
                    warn!(task = name, error = %how, "task did not stop cleanly");
                }
                Err(_) => {
                    handle.abort();
                    warn!(task = name, "task did not stop in time and was cut off");
                }
            }
        }
    }
}

/// A task of somebody else that must not outlive its owner.
struct AbortOnDrop(JoinHandle<()>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

fn panicked(error: JoinError) -> Ending {
    let Ok(payload) = error.try_into_panic() else {
        return Ending::Returned;
    };
    let text = payload.downcast_ref::<&str>().map(ToString::to_string);
    let text = text.or_else(|| payload.downcast_ref::<String>().cloned());
    Ending::Panicked(text.unwrap_or_else(|| "without a message".to_owned()))
}

fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}

/// Ready when somebody asks the process to end; says which signal it was.
///
/// # Errors
/// Signals cannot be received.
pub fn termination() -> std::io::Result<impl Future<Output = ()>> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    Ok(async move {
        let name = tokio::select! {
            _ = terminate.recv() => "SIGTERM",
            _ = interrupt.recv() => "SIGINT",
        };
        tracing::info!(signal = name, "stopping");
    })
}

#[cfg(test)]
mod tests {
    use std::{
        convert::Infallible,
        future, io,
        sync::{Arc, Mutex},
    };

    use tokio::sync::watch;

    use super::{Ending, Supervisor};

    type Log = Arc<Mutex<Vec<&'static str>>>;

    async fn until(mut stop: watch::Receiver<bool>) -> Result<(), Infallible> {
        stop.wait_for(|stop| *stop).await.unwrap();
        Ok(())
    }

    fn start_logged(supervisor: &mut Supervisor, log: &Log, name: &'static str) {
        let log = Arc::clone(log);
        supervisor.start(name, |stop| async move {
            until(stop).await.unwrap();
            log.lock().unwrap().push(name);
            Ok::<(), Infallible>(())
        });
    }

    #[tokio::test]
    async fn tasks_stop_in_the_reverse_order_of_their_start() {
        let log = Log::default();
        let mut supervisor = Supervisor::default();
        for name in ["source", "reconciler", "control socket"] {
            start_logged(&mut supervisor, &log, name);
        }
        supervisor.run(future::ready(())).await.unwrap();
        assert_eq!(
            *log.lock().unwrap(),
            ["control socket", "reconciler", "source"]
        );
    }

    #[tokio::test]
    async fn a_task_that_fails_is_named_and_the_others_are_stopped() {
        let log = Log::default();
        let mut supervisor = Supervisor::default();
        start_logged(&mut supervisor, &log, "reconciler");
        supervisor.start("http", |_| async {
            Err(io::Error::other("no more sockets"))
        });
        let ended = supervisor.run(future::pending()).await.unwrap_err();
        assert_eq!(ended.to_string(), "task http ended: no more sockets");
        assert_eq!(*log.lock().unwrap(), ["reconciler"]);
    }

    #[tokio::test]
    async fn a_panic_is_reported_with_its_message() {
        let mut supervisor = Supervisor::default();
        supervisor.adopt("source", tokio::spawn(async { panic!("cannot happen") }));
        let ended = supervisor.run(future::pending()).await.unwrap_err();
        assert_eq!(ended.how, Ending::Panicked("cannot happen".to_owned()));
    }

    #[tokio::test]
    async fn a_task_that_just_returns_is_reported_too() {
        let mut supervisor = Supervisor::default();
        supervisor.start("reconciler", |_| async { Ok::<(), Infallible>(()) });
        let ended = supervisor.run(future::pending()).await.unwrap_err();
        assert_eq!(ended.task, "reconciler");
        assert_eq!(ended.how, Ending::Returned);
    }

    #[tokio::test(start_paused = true)]
    async fn a_task_that_does_not_stop_is_cut_off() {
        let mut supervisor = Supervisor::default();
        supervisor.start("stubborn", |_| future::pending::<Result<(), Infallible>>());
        supervisor.run(future::ready(())).await.unwrap();
    }

    #[tokio::test]
    async fn an_adopted_task_is_aborted_on_stop() {
        let (alive, mut gone) = tokio::sync::mpsc::channel::<()>(1);
        let mut supervisor = Supervisor::default();
        let task = tokio::spawn(async move {
            let _alive = alive;
            future::pending::<()>().await;
        });
        supervisor.adopt("source", task);
        supervisor.run(future::ready(())).await.unwrap();
        assert_eq!(gone.recv().await, None);
    }
}
