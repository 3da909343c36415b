//! Where facts come from. A source publishes the whole of what it knows as [`crate::model::Facts`]
//! in a watch channel: a state and not a stream, so a slow reader skips to the newest and nothing
//! queues up. No source writes to the kernel, and none feeds on what the reconciler made of it.

pub mod dir;
pub mod kube;
pub mod local;
pub mod objects;

mod documents;
mod files;
mod shelf;
