//! Nothing is given up that something else still uses. Where refcounts are right they see to that; in a damaged image, in
//! which a cluster is used more often than it is counted, the last one who is counted would take it away from the others.

use std::collections::HashMap;

use super::change::{Change, read_l1};
use super::reach::{Tables, collect_runs, collect_sound_runs};
use super::table::Snapshot;
use crate::error::{Error, Result};
use crate::format::qcow2::geometry::HostOffset;
use crate::format::qcow2::refcount::Run;

/// Runs of clusters that are compared with what else is in use at a time.
const RUNS_MAX: usize = 1 << 20;

impl Change<'_> {
    /// Fails where the disk or one of `snapshots` uses what is among `given_up`, whose last counted users go.
    pub(super) fn check_apart(&mut self, given_up: &mut [Run], snapshots: &[Snapshot]) -> Result<()> {
        if given_up.is_empty() {
            return Ok(());
        }
        given_up.sort_unstable();
        let geometry = self.geometry();
        let users = self.users(snapshots)?;
        let mut runs = Vec::new();
        users.read(&*self.image().file, geometry, |_, table, bytes| {
            collect_sound_runs(geometry, table, bytes, &mut runs);
            match runs.iter().find_map(|run| overlap(*run, given_up)) {
                Some(cluster) => Err(used_uncounted(cluster << geometry.cluster_bits)),
                None => Ok(()),
            }
        })
    }

    /// The same before `tables`, which are no longer in use, are given up with all that they refer to.
    pub(super) fn check_tables_apart(&mut self, tables: &Tables) -> Result<()> {
        let geometry = self.geometry();
        let snapshots = self.meta().snapshots.entries.clone();
        let file = self.image().file.clone();
        let mut runs = Vec::new();
        let mut last_uses = Vec::new();
        tables.read(&*file, geometry, |_, table, bytes| {
            collect_runs(geometry, table, bytes, &mut runs)?;
            let refcounts = &mut self.meta().writer()?.refcounts;
            for run in &runs {
                refcounts.each_with(*run, 1, |once| last_uses.push(once))?;
            }
            if last_uses.len() >= RUNS_MAX {
                self.check_apart(&mut last_uses, &snapshots)?;
                last_uses.clear();
            }
            Ok(())
        })?;
        self.check_apart(&mut last_uses, &snapshots)
    }

    /// How often `snapshots` refer to those L2 tables that are keys of `of`.
    pub(super) fn uses<T>(&mut self, snapshots: &[Snapshot], of: &HashMap<HostOffset, T>) -> HashMap<HostOffset, u64> {
        let mut uses = HashMap::new();
        for table in self.tables_of(snapshots).filter(|table| of.contains_key(table)) {
            *uses.entry(table).or_default() += 1;
        }
        uses
    }

    /// The L2 tables of the disk and of `snapshots`, each once.
    fn users(&mut self, snapshots: &[Snapshot]) -> Result<Tables> {
        let geometry = self.geometry();
        let mut users = Vec::new();
        Tables::of(self.meta().l1.entries(), geometry)?.each(|table| users.push(table));
        users.extend(self.tables_of(snapshots).filter(|table| geometry.in_cluster(table.0) == 0));
        Ok(Tables::at(users).distinct())
    }

    /// What the L1 tables of `snapshots` refer to. One that cannot be read refers to nothing.
    fn tables_of(&self, snapshots: &[Snapshot]) -> impl Iterator<Item = HostOffset> {
        let l1s = snapshots.iter().filter_map(|snapshot| read_l1(&*self.image().file, snapshot, self.geometry()).ok());
        l1s.flat_map(|l1| l1.entries().iter().filter_map(|entry| entry.table()).collect::<Vec<_>>())
    }
}

/// The first cluster of a run that is in one of `others`, too, which are sorted and apart from each other.
fn overlap(run: Run, others: &[Run]) -> Option<u64> {
    let next = others.get(others.partition_point(|other| other.end() <= run.first))?;
    (next.first < run.end()).then(|| next.first.max(run.first))
}

fn used_uncounted(offset: u64) -> Error {
    Error::os(libc::EINVAL).advise(format!(
        "The cluster at {offset:#x} is in use more often than its refcount says; 'qemu-img check -r all' sets that right."
    ))
}
