//! Many jobs on all cores, each on one: results in the order of the jobs.

use anyhow::{Context, Result, anyhow};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

/// Does every job. A worker has a pool of its own with one thread, so that what is parallel inside a job does not wait
/// for other jobs.
pub fn each<J: Sync, R: Send>(what: &str, jobs: &[J], work: impl Fn(&J) -> Result<R> + Sync) -> Result<Vec<R>> {
    let next = AtomicUsize::new(0);
    let done: Mutex<Vec<(usize, Result<R>)>> = Mutex::new(Vec::new());
    let worker = || -> Result<()> {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build()?;
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            let Some(job) = jobs.get(number) else { return Ok(()) };
            let result = pool.install(|| work(job));
            let mut done = done.lock().map_err(|_| anyhow!("a job came to grief"))?;
            done.push((number, result));
            if done.len().is_multiple_of(jobs.len().div_ceil(20)) {
                eprintln!("{what}: {} of {}", done.len(), jobs.len());
            }
        }
    };
    let threads = thread::available_parallelism().map_or(1, |n| n.get());
    thread::scope(|scope| {
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(worker)).collect();
        workers.into_iter().try_for_each(|w| w.join().map_err(|_| anyhow!("a job came to grief"))?)
    })?;
    let mut done = done.into_inner().ok().context("a job came to grief")?;
    done.sort_by_key(|(number, _)| *number);
    done.into_iter().map(|(_, result)| result).collect()
}
