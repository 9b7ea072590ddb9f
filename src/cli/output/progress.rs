//! How far long work is: a bar on a terminal, elsewhere a line every 30 s; and messages.

use std::io::{self, IsTerminal, Write};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::one_line;
use crate::units::{ByteSize, Event, Level, Progress};

/// Between two lines where there is no terminal.
const LINE_EVERY: Duration = Duration::from_secs(30);

/// Between two changes of the text beside a bar.
const BAR_EVERY: Duration = Duration::from_millis(200);

/// What is shown.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Shown {
    /// `-q`: warnings only.
    pub quiet: bool,
    /// `-v`: details, too.
    pub verbose: bool,
    /// `--no-progress`: messages, but neither bars nor lines.
    pub no_progress: bool,
}

impl Shown {
    fn message(self, level: Level) -> bool {
        match level {
            Level::Warning => true,
            Level::Info => !self.quiet,
            Level::Detail => self.verbose && !self.quiet,
        }
    }

    fn progress(self) -> bool {
        !self.quiet && !self.no_progress
    }
}

/// Shows events on stderr, or wherever a test wants them. Safe to be told by many threads.
pub struct Reporter {
    shown: Shown,
    clock: Box<dyn Fn() -> Duration + Send + Sync>,
    /// Bytes done in this phase.
    done: AtomicU64,
    /// When the next text is due, in milliseconds of the clock: looked at for each event, without the lock.
    due: AtomicU64,
    inner: Mutex<Inner>,
}

struct Inner {
    out: Box<dyn Write + Send>,
    bar: Option<ProgressBar>,
    phase: Option<Phase>,
}

struct Phase {
    name: String,
    total: Option<u64>,
    start: Duration,
}

impl Reporter {
    /// On stderr: a bar if that is a terminal.
    pub fn on_stderr(shown: Shown) -> Self {
        let start = Instant::now();
        let bar = (shown.progress() && io::stderr().is_terminal()).then(new_bar);
        Self::new(shown, Box::new(io::stderr()), bar, Box::new(move || start.elapsed()))
    }

    /// Lines to `out`, by a clock of one's own.
    pub fn with_lines(shown: Shown, out: Box<dyn Write + Send>, clock: Box<dyn Fn() -> Duration + Send + Sync>) -> Self {
        Self::new(shown, out, None, clock)
    }

    fn new(shown: Shown, out: Box<dyn Write + Send>, bar: Option<ProgressBar>, clock: Box<dyn Fn() -> Duration + Send + Sync>) -> Self {
        let inner = Mutex::new(Inner { out, bar, phase: None });
        Reporter { shown, clock, done: AtomicU64::new(0), due: AtomicU64::new(u64::MAX), inner }
    }

    fn begin(&self, name: &str, total: Option<u64>) {
        let Ok(mut inner) = self.inner.lock() else { return };
        let now = (self.clock)();
        self.done.store(0, Ordering::Relaxed);
        self.schedule(now, inner.bar.is_some());
        let phase = Phase { name: one_line(name).into_owned(), total, start: now };
        if let Some(bar) = &inner.bar {
            show_phase(bar, &phase);
        }
        inner.phase = Some(phase);
    }

    fn advance(&self, bytes: u64) {
        let done = self.done.fetch_add(bytes, Ordering::Relaxed).saturating_add(bytes);
        if !self.shown.progress() || millis((self.clock)()) < self.due.load(Ordering::Relaxed) {
            return;
        }
        // Whoever holds it is about to show the same.
        let Ok(mut inner) = self.inner.try_lock() else { return };
        let now = (self.clock)();
        if millis(now) < self.due.load(Ordering::Relaxed) {
            return;
        }
        let Inner { out, bar, phase } = &mut *inner;
        let Some(phase) = phase else { return };
        match bar {
            Some(bar) => {
                bar.set_position(done);
                bar.set_message(figures(done, phase.total, now.saturating_sub(phase.start)));
            }
            // Nothing can be said about a log that can't be written.
            None => drop(writeln!(out, "{}: {}", phase.name, figures(done, phase.total, now.saturating_sub(phase.start)))),
        }
        self.schedule(now, bar.is_some());
    }

    fn schedule(&self, now: Duration, bar: bool) {
        self.due.store(millis(now + if bar { BAR_EVERY } else { LINE_EVERY }), Ordering::Relaxed);
    }

    fn message(&self, level: Level, text: &str) {
        if !self.shown.message(level) {
            return;
        }
        let Ok(mut inner) = self.inner.lock() else { return };
        let Inner { out, bar, .. } = &mut *inner;
        let mut say = || {
            let kind = if level == Level::Warning { "warning: " } else { "" };
            drop(writeln!(out, "{kind}{}", one_line(text)));
        };
        match bar {
            Some(bar) => bar.suspend(say),
            None => say(),
        }
    }
}

impl Progress for Reporter {
    fn event(&self, event: Event<'_>) {
        match event {
            Event::Phase { name, total } => self.begin(name, total),
            Event::Advance(bytes) => self.advance(bytes),
            Event::Message(level, text) => self.message(level, text),
        }
    }
}

impl Drop for Reporter {
    fn drop(&mut self) {
        if let Ok(inner) = self.inner.get_mut()
            && let Some(bar) = &inner.bar
        {
            bar.finish_and_clear();
        }
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// A bar that is not seen before its first phase.
fn new_bar() -> ProgressBar {
    ProgressBar::with_draw_target(None, ProgressDrawTarget::hidden())
}

fn show_phase(bar: &ProgressBar, phase: &Phase) {
    let template = if phase.total.is_some() { "{prefix} [{bar:24}] {msg}" } else { "{spinner} {prefix} {msg}" };
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style.progress_chars("=> "));
    }
    bar.reset();
    match phase.total {
        Some(total) => bar.set_length(total),
        None => bar.unset_length(),
    }
    bar.set_prefix(phase.name.clone());
    bar.set_message("");
    bar.set_draw_target(ProgressDrawTarget::stderr());
    // So that it lives while nothing advances (waiting for WAL).
    bar.enable_steady_tick(Duration::from_millis(250));
}

/// `300 MB of 1.1 GB (27 %), 95 MB/s, 8 s left`.
fn figures(done: u64, total: Option<u64>, elapsed: Duration) -> String {
    let rate = done as f64 / elapsed.as_secs_f64().max(0.001);
    let mut text = ByteSize(done).to_string();
    if let Some(total) = total {
        let percent = if total == 0 { 100 } else { (u128::from(done.min(total)) * 100 / u128::from(total)) as u64 };
        text.push_str(&format!(" of {} ({percent} %)", ByteSize(total)));
    }
    text.push_str(&format!(", {}/s", ByteSize(rate as u64)));
    if let Some(left) = total.and_then(|total| total.checked_sub(done)).filter(|left| *left > 0 && rate >= 1.0) {
        text.push_str(&format!(", {} left", for_people((left as f64 / rate) as u64)));
    }
    text
}

/// `8 s`, `4 min`, `3 h 20 min`.
pub fn for_people(seconds: u64) -> String {
    match seconds {
        0..100 => format!("{} s", seconds.max(1)),
        100..6000 => format!("{} min", seconds.div_ceil(60)),
        _ => format!("{} h {} min", seconds / 3600, seconds % 3600 / 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    /// What is written, and a clock in seconds.
    #[derive(Clone, Default)]
    struct Stage {
        text: Arc<Mutex<Vec<u8>>>,
        seconds: Arc<AtomicU64>,
    }

    impl Write for Stage {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.text.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl Stage {
        fn reporter(&self, shown: Shown) -> Reporter {
            let seconds = Arc::clone(&self.seconds);
            let clock = move || Duration::from_secs(seconds.load(Ordering::SeqCst));
            Reporter::with_lines(shown, Box::new(self.clone()), Box::new(clock))
        }

        fn at(&self, seconds: u64) {
            self.seconds.store(seconds, Ordering::SeqCst);
        }

        fn taken(&self) -> String {
            String::from_utf8(std::mem::take(&mut self.text.lock().unwrap())).unwrap()
        }
    }

    #[test]
    fn without_a_terminal_there_is_a_line_every_half_minute() {
        let stage = Stage::default();
        let reporter = stage.reporter(Shown::default());
        reporter.advance(5);
        reporter.phase("copying", Some(1_000_000_000));
        for second in 1..=29 {
            stage.at(second);
            Progress::advance(&reporter, 10_000_000);
        }
        assert_eq!(stage.taken(), "");
        stage.at(30);
        Progress::advance(&reporter, 10_000_000);
        Progress::advance(&reporter, 0);
        assert_eq!(stage.taken(), "copying: 300 MB of 1.0 GB (30 %), 10 MB/s, 70 s left\n");
        reporter.phase("waiting for WAL", None);
        stage.at(59);
        Progress::advance(&reporter, 1000);
        stage.at(60);
        Progress::advance(&reporter, 0);
        assert_eq!(stage.taken(), "waiting for WAL: 1.0 kB, 33 B/s\n");
    }

    #[test]
    fn levels_decide_what_is_shown() {
        let (quiet, verbose, no_progress) = (true, true, true);
        for (shown, expected) in [
            (Shown::default(), "i\nwarning: w\np: 7 B, 0 B/s\n"),
            (Shown { quiet, ..Shown::default() }, "warning: w\n"),
            (Shown { verbose, ..Shown::default() }, "d\ni\nwarning: w\np: 7 B, 0 B/s\n"),
            (Shown { no_progress, ..Shown::default() }, "i\nwarning: w\n"),
            (Shown { quiet, verbose, no_progress }, "warning: w\n"),
        ] {
            let stage = Stage::default();
            let reporter = stage.reporter(shown);
            reporter.phase("p", None);
            reporter.detail("d");
            reporter.info("i");
            reporter.warn("w");
            stage.at(31);
            Progress::advance(&reporter, 7);
            assert_eq!(stage.taken(), expected, "{shown:?}");
        }
    }

    #[test]
    fn figures_are_for_people() {
        let seconds = Duration::from_secs;
        assert_eq!(figures(0, Some(0), seconds(0)), "0 B of 0 B (100 %), 0 B/s");
        assert_eq!(figures(0, Some(1000), seconds(5)), "0 B of 1.0 kB (0 %), 0 B/s");
        assert_eq!(figures(2000, Some(1000), seconds(1)), "2.0 kB of 1.0 kB (100 %), 2.0 kB/s");
        assert_eq!(for_people(0), "1 s");
        assert_eq!(for_people(100), "2 min");
        assert_eq!(for_people(12_000), "3 h 20 min");
    }

    #[test]
    fn a_bar_takes_phases_and_messages() {
        let reporter = Reporter::new(Shown::default(), Box::new(Stage::default()), Some(new_bar()), Box::new(|| Duration::ZERO));
        reporter.phase("copying", Some(100));
        Progress::advance(&reporter, 50);
        reporter.warn("careful");
        reporter.phase("finishing", None);
    }
}
