//! The policy as flags.

use std::time::Duration;

use crate::host::config::{ClusterKeys, KeepLabel, RetentionKeys, read_count, read_span};
use crate::look::SnapshotName;

/// Arguments of `forget`.
#[derive(clap::Args, Debug)]
pub(in crate::cli) struct Args {
    /// Snapshots: ids, the beginnings of ids, latest, or latest~N; without any the policy decides
    #[arg(value_name = "SNAPSHOT")]
    pub snapshots: Vec<SnapshotName>,
    /// Only show what would go, what stays and why
    #[arg(long)]
    pub dry_run: bool,
    /// Count what comes back to the blob, by walking all snapshots
    #[arg(long)]
    pub exact: bool,
    /// Never keep fewer good ones than this [default: 1]
    #[arg(long, value_name = "N", value_parser = read_count)]
    keep_min: Option<u32>,
    #[command(flatten)]
    policy: PolicyArgs,
}

/// What chooses: not together with ids.
#[derive(clap::Args, Debug)]
#[command(next_help_heading = "Policy (0 takes back what the configuration says)")]
struct PolicyArgs {
    /// The newest so many
    #[arg(long, value_name = "N", value_parser = read_count, conflicts_with = "snapshots")]
    keep_last: Option<u32>,
    /// The newest of each of so many hours that have one
    #[arg(long, value_name = "N", value_parser = read_count, conflicts_with = "snapshots")]
    keep_hourly: Option<u32>,
    /// Of days (in UTC)
    #[arg(long, value_name = "N", value_parser = read_count, conflicts_with = "snapshots")]
    keep_daily: Option<u32>,
    /// Of weeks, from Monday on
    #[arg(long, value_name = "N", value_parser = read_count, conflicts_with = "snapshots")]
    keep_weekly: Option<u32>,
    /// Of months
    #[arg(long, value_name = "N", value_parser = read_count, conflicts_with = "snapshots")]
    keep_monthly: Option<u32>,
    /// Of years
    #[arg(long, value_name = "N", value_parser = read_count, conflicts_with = "snapshots")]
    keep_yearly: Option<u32>,
    /// All that are not older than the newest by more than this, for example 14d
    #[arg(long, value_name = "SPAN", value_parser = read_span, conflicts_with = "snapshots")]
    keep_within: Option<Duration>,
    /// All with this label; may be repeated
    #[arg(long, value_name = "KEY[=VALUE]", conflicts_with = "snapshots")]
    keep_label: Option<Vec<KeepLabel>>,
    /// Any point in time of so long stays restorable; older snapshots keep just the WAL that makes them consistent
    #[arg(long, value_name = "SPAN", value_parser = read_span, conflicts_with = "snapshots")]
    pitr_window: Option<Duration>,
}

impl Args {
    /// The policy flags.
    pub fn cluster_keys(&self) -> ClusterKeys {
        let policy = &self.policy;
        let retention = RetentionKeys {
            last: policy.keep_last,
            hourly: policy.keep_hourly,
            daily: policy.keep_daily,
            weekly: policy.keep_weekly,
            monthly: policy.keep_monthly,
            yearly: policy.keep_yearly,
            within: policy.keep_within,
            labels: policy.keep_label.clone(),
            min: self.keep_min,
            pitr_window: policy.pitr_window,
        };
        ClusterKeys { retention, ..ClusterKeys::default() }
    }
}
