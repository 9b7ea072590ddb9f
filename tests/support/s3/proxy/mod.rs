//! A proxy between the program and an S3 service that does to requests and answers what networks and services do to them, at the
//! places that a test names, and tells afterwards what was asked.
//!
//! ```ignore
//! let proxy = Proxy::start(service.address());
//! proxy.plan(|seen| if seen.operation == Operation::Create && seen.nth == 0 { Fault::ResetAfterRequest } else { Fault::None });
//! proxy.seeded(seed, 100);                       // or: a fault for 100 of 1,000 requests, the same ones for the same seed
//! proxy.refuse(|seen| seen.operation.deletes()); // 403 AccessDenied
//! proxy.latency(Duration::from_millis(50), Duration::ZERO);
//! // ... the program, with proxy.endpoint() as its endpoint ...
//! assert!(proxy.counts().of_operation(Operation::Create) <= 12);
//! ```
//!
//! Plain HTTP, one thread a connection; bodies are handed on as they come. The program signs for the proxy's address, and SeaweedFS
//! and rclone check signatures against the `host` that came with the request, so nothing has to be signed anew.
//!
//! - `seen.rs`: [`Seen`], [`Operation`]: what a request asks for; [`Record`], [`Counts`]: what became of it
//! - `fault.rs`: [`Fault`] and the seeded choice of one
//! - `exchange.rs`: a connection: requests one after the other, and what the fault makes of them

mod exchange;
mod fault;
mod seen;

use std::collections::{BTreeMap, HashMap};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

pub use fault::{Fault, seeded};
pub use seen::{Counts, Operation, Record, Seen};

use jiff::{SignedDuration, Timestamp};

use super::http::Head;

type Plan = dyn Fn(&Seen) -> Fault + Send + Sync;
type Rule = dyn Fn(&Seen) -> bool + Send + Sync;

/// A running proxy; ended, with all its connections, when dropped.
pub struct Proxy {
    address: SocketAddr,
    shared: Arc<Shared>,
}

/// What all connections know.
struct Shared {
    upstream: String,
    stopped: AtomicBool,
    next: AtomicU64,
    state: Mutex<State>,
}

struct State {
    plan: Arc<Plan>,
    refused: Arc<Rule>,
    latency: (Duration, Duration),
    /// How far the service's clock is ahead of the true one.
    clock: SignedDuration,
    /// How often each request was seen: by who, method, target and condition.
    times: HashMap<String, u64>,
    /// How many of an operation there were, by identity.
    kinds: HashMap<(String, Operation), u64>,
    /// By the number of their arrival.
    records: BTreeMap<u64, Record>,
    /// The first answer to each list, by target.
    lists: HashMap<String, (Head, Vec<u8>)>,
    /// When each object was first written, by bucket and key.
    written: HashMap<String, Instant>,
    connections: HashMap<u64, Arc<TcpStream>>,
    /// Of them, those that wait for a next request.
    idle: HashMap<u64, bool>,
}

impl Proxy {
    /// Before the service at this address (`127.0.0.1:port`). Faithful until it is told otherwise.
    pub fn start(upstream: &str) -> Proxy {
        let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a port");
        let address = listener.local_addr().expect("its address");
        let state = State {
            plan: Arc::new(|_: &Seen| Fault::None),
            refused: Arc::new(|_: &Seen| false),
            latency: (Duration::ZERO, Duration::ZERO),
            clock: SignedDuration::ZERO,
            times: HashMap::new(),
            kinds: HashMap::new(),
            records: BTreeMap::new(),
            lists: HashMap::new(),
            written: HashMap::new(),
            connections: HashMap::new(),
            idle: HashMap::new(),
        };
        let shared =
            Shared { upstream: upstream.to_owned(), stopped: AtomicBool::new(false), next: AtomicU64::new(0), state: Mutex::new(state) };
        let shared = Arc::new(shared);
        let all = Arc::clone(&shared);
        std::thread::spawn(move || {
            for client in listener.incoming() {
                if all.stopped.load(Ordering::SeqCst) {
                    return;
                }
                let Ok(client) = client else { continue };
                let shared = Arc::clone(&all);
                std::thread::spawn(move || exchange::serve(&shared, client));
            }
        });
        Proxy { address, shared }
    }

    /// What the program is given as its endpoint: `http://127.0.0.1:port`.
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// From now on every request meets what this says.
    pub fn plan(&self, plan: impl Fn(&Seen) -> Fault + Send + Sync + 'static) {
        self.shared.state().plan = Arc::new(plan);
    }

    /// From now on `per_mille` of 1,000 requests meet one of the faults that an honest network and service have. By their place
    /// among the requests of their kind, not by their names, which no two runs share: a seed means the same where requests come
    /// in the same order.
    pub fn seeded(&self, seed: u64, per_mille: u64) {
        self.plan(move |seen| seeded(seed, per_mille, seen));
    }

    /// From now on these are answered with 403 AccessDenied, and don't reach the service.
    pub fn refuse(&self, rule: impl Fn(&Seen) -> bool + Send + Sync + 'static) {
        self.shared.state().refused = Arc::new(rule);
    }

    /// From now on every request takes this much longer, and up to `jitter` more.
    pub fn latency(&self, latency: Duration, jitter: Duration) {
        self.shared.state().latency = (latency, jitter);
    }

    /// From now on the service's clock seems to be so far ahead: what was signed for more than 5 minutes before or after is
    /// refused with 403 RequestTimeTooSkewed, and the `Date` of every answer says the service's time. Up to 10 minutes, as the service
    /// itself, of whose clock this isn't true, allows 15.
    pub fn clock(&self, ahead: SignedDuration) {
        assert!(ahead.abs() <= SignedDuration::from_mins(10));
        self.shared.state().clock = ahead;
    }

    /// Faithful again: no faults, no refusals, no latency, the right time. What was seen stays.
    pub fn calm(&self) {
        self.plan(|_| Fault::None);
        self.refuse(|_| false);
        self.latency(Duration::ZERO, Duration::ZERO);
        self.clock(SignedDuration::ZERO);
    }

    /// Ends all connections on which nothing is being asked, as a load balancer does without a word. How many there were.
    pub fn drop_idle_connections(&self) -> usize {
        let state = self.shared.state();
        let idle = state.idle.iter().filter(|(_, idle)| **idle).filter_map(|(number, _)| state.connections.get(number));
        idle.filter(|connection| connection.shutdown(std::net::Shutdown::Both).is_ok()).count()
    }

    /// What was asked since the start, or since [`Proxy::forget`], and what became of it so far; in the order in which it came.
    pub fn records(&self) -> Vec<Record> {
        self.shared.state().records.values().cloned().collect()
    }

    /// The same in numbers.
    pub fn counts(&self) -> Counts {
        Counts::of(self.shared.state().records.values())
    }

    /// Begins to count anew (requests that were seen once stay seen: [`Seen::nth`]).
    pub fn forget(&self) {
        self.shared.state().records.clear();
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.shared.stopped.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect(self.address); // wakes the listener
        for connection in self.shared.state().connections.values() {
            let _ = connection.shutdown(std::net::Shutdown::Both);
        }
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        // A plan that panics says so in its thread; the others go on.
        self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// A number that nothing else here has.
    fn number(&self) -> u64 {
        self.next.fetch_add(1, Ordering::SeqCst)
    }

    /// A request has come; the number by which it is updated.
    fn begin(&self, record: Record) -> u64 {
        let number = self.number();
        self.state().records.insert(number, record);
        number
    }

    fn update(&self, number: u64, with: impl FnOnce(&mut Record)) {
        if let Some(record) = self.state().records.get_mut(&number) {
            with(record);
        }
    }

    /// What this request asks for, and what it shall meet.
    fn look(&self, head: &Head) -> (Seen, Fault, Duration) {
        let mut seen = Seen::of(head);
        let (plan, refused, latency, clock) = {
            let mut state = self.state();
            let next = |count: &mut u64| std::mem::replace(count, *count + 1);
            seen.nth = next(state.times.entry(seen.identity()).or_default());
            seen.index = next(state.kinds.entry((seen.who.clone(), seen.operation)).or_default());
            (Arc::clone(&state.plan), Arc::clone(&state.refused), state.latency, state.clock)
        };
        let skewed =
            !clock.is_zero() && seen.signed_at().is_some_and(|at| (at - (Timestamp::now() + clock)).abs() > SignedDuration::from_mins(5));
        let fault = match (skewed, refused(&seen)) {
            (true, _) => Fault::Error(403, "RequestTimeTooSkewed"),
            (_, true) => Fault::Error(403, "AccessDenied"),
            _ => plan(&seen),
        };
        let jitter = fault::share(latency.1, fault::mixed(&seen.identity(), seen.nth));
        (seen, fault, latency.0 + jitter)
    }
}
