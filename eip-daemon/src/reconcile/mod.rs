//! Keeps the kernel as the facts want it.

use std::sync::Arc;

use tokio::sync::{Notify, watch};

use crate::{
    dataplane::DataPlane,
    model::{Facts, NodeSettings},
    report::Report,
};

/// The loop: look, compute, compare, change, report.
#[derive(Debug)]
pub struct Reconciler<D> {
    data_plane: D,
    facts: watch::Receiver<Facts>,
    settings: Arc<NodeSettings>,
    kernel_events: Arc<Notify>,
    report: watch::Sender<Arc<Report>>,
}

impl<D: DataPlane> Reconciler<D> {
    /// A reconciler and the reports it will publish.
    #[must_use]
    pub fn new(
        data_plane: D,
        facts: watch::Receiver<Facts>,
        settings: Arc<NodeSettings>,
        kernel_events: Arc<Notify>,
    ) -> (Self, watch::Receiver<Arc<Report>>) {
        let (report, reports) = watch::channel(Arc::new(Report::default()));
        (
            Self {
                data_plane,
                facts,
                settings,
                kernel_events,
                report,
            },
            reports,
        )
    }

    /// Runs until `shutdown` is true (or its sender is gone). Leaves everything in the kernel in place.
    pub async fn run(self, mut shutdown: watch::Receiver<bool>) {
        let _unused = (
            &self.data_plane,
            &self.facts,
            &self.settings,
            &self.kernel_events,
        );
        let _stop = shutdown.wait_for(|stop| *stop).await.is_ok();
        drop(self.report);
    }
}
