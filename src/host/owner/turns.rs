//! Several owners change key slots at once: one call to the store at a time, in an order that the test chooses, and each of them
//! may be killed behind any call. However that ends, a way in is left, and what was begun can be finished.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex};

use proptest::prelude::*;

use super::races::{key, owner, with_slots};
use super::slots::list_slots;
use super::*;
use crate::crypt::slot::Lock;
use crate::host::HostError;
use crate::host::access::testing::Host;
use crate::host::access::{Opened, StoredSlot};
use crate::store::fault::ForgetfulFs;
use crate::store::memory::MemoryStore;
use crate::store::{Backend, Create, Listed, LocalStore, ObjectName, SessionTag, StoreError};
use crate::units::SlotId;

/// More calls than anybody makes.
const TO_THE_END: usize = 10_000;

/// Whose turn it is.
struct Turns {
    /// So many calls of this one, then of the next.
    order: VecDeque<(usize, usize)>,
    /// Calls that each has made, and behind how many it is killed.
    calls: Vec<(usize, usize)>,
    over: Vec<bool>,
}

#[derive(Clone)]
struct Table(Arc<(Mutex<Turns>, Condvar)>);

impl Table {
    fn new(order: &[(usize, usize)], kills: &[Option<usize>]) -> Table {
        let rest = (0..kills.len()).rev().map(|who| (who, TO_THE_END));
        let order = order.iter().copied().chain(rest).collect();
        let calls = kills.iter().map(|kill| (0, kill.unwrap_or(TO_THE_END))).collect();
        Table(Arc::new((Mutex::new(Turns { order, calls, over: vec![false; kills.len()] }), Condvar::new())))
    }

    /// Makes a call when its turn has come; it is over before anybody else's.
    fn call<T>(&self, who: usize, call: impl FnOnce() -> Result<T, StoreError>) -> Result<T, StoreError> {
        let (turns, changed) = &*self.0;
        let mut turns = turns.lock().unwrap();
        loop {
            if turns.calls[who].0 == turns.calls[who].1 {
                turns.over[who] = true;
                changed.notify_all();
                return Err(StoreError::Denied { what: "the store".into(), source: std::io::Error::other("killed") });
            }
            while turns.order.front().is_some_and(|(next, left)| *left == 0 || turns.over[*next]) {
                turns.order.pop_front();
            }
            match turns.order.front_mut() {
                Some((next, left)) if *next == who => {
                    *left -= 1;
                    turns.calls[who].0 += 1;
                    let answer = call();
                    changed.notify_all();
                    return answer;
                }
                _ => turns = changed.wait(turns).unwrap(),
            }
        }
    }

    fn leave(&self, who: usize) {
        self.0.0.lock().unwrap().over[who] = true;
        self.0.1.notify_all();
    }
}

/// The store as one owner sees it; before it is seated, without turns.
struct Seat {
    inner: Arc<dyn Backend>,
    at: Mutex<Option<(Table, usize)>>,
}

impl Seat {
    fn call<T>(&self, call: impl FnOnce() -> Result<T, StoreError>) -> Result<T, StoreError> {
        let at = self.at.lock().unwrap().clone();
        match at {
            Some((table, who)) => table.call(who, call),
            None => call(),
        }
    }
}

impl Backend for Seat {
    fn create(&self, name: &ObjectName, parts: &[&[u8]], session: &SessionTag) -> Result<Create, StoreError> {
        self.call(|| self.inner.create(name, parts, session))
    }

    fn read(&self, name: &ObjectName, max: u64) -> Result<Vec<u8>, StoreError> {
        self.call(|| self.inner.read(name, max))
    }

    fn read_range(&self, name: &ObjectName, offset: u64, len: usize) -> Result<Vec<u8>, StoreError> {
        self.call(|| self.inner.read_range(name, offset, len))
    }

    fn size(&self, name: &ObjectName) -> Result<u64, StoreError> {
        self.call(|| self.inner.size(name))
    }

    fn list(&self, folder: Option<&ObjectName>, each: &mut dyn FnMut(Listed) -> Result<(), StoreError>) -> Result<(), StoreError> {
        self.call(|| self.inner.list_sorted(folder))?.into_iter().try_for_each(each)
    }

    fn delete(&self, name: &ObjectName) -> Result<(), StoreError> {
        self.call(|| self.inner.delete(name))
    }

    fn settle_deletions(&self, folder: &ObjectName) -> Result<(), StoreError> {
        self.call(|| self.inner.settle_deletions(folder))
    }

    fn prove(&self, session: &SessionTag) -> Result<Vec<String>, StoreError> {
        self.inner.prove(session)
    }

    fn describe(&self) -> String {
        self.inner.describe()
    }
}

/// What an owner does who has some keys at hand; slots are numbered as the keys that open them, from 1.
#[derive(Clone, Copy, Debug)]
enum Deed {
    Remove(&'static [u8], u8),
    Rotate(&'static [u8]),
    /// Another slot for the first of these keys, as who has lost nothing but may do.
    Add(&'static [u8]),
    /// As a program would that relies on what it sees: the control.
    RemoveOnSight(&'static [u8], u8),
}

impl Deed {
    fn keys(self) -> &'static [u8] {
        match self {
            Deed::Remove(keys, _) | Deed::Rotate(keys) | Deed::Add(keys) | Deed::RemoveOnSight(keys, _) => keys,
        }
    }

    fn run(self, opened: &Opened, owner: &Owner, ids: &[String]) -> Result<(), HostError> {
        let of = |number: u8| &ids[usize::from(number) - 1];
        match self {
            Deed::Remove(_, number) => remove_slot(opened, owner, of(number)).map(drop),
            Deed::Rotate(_) => rotate(opened, owner).map(drop),
            Deed::Add(keys) => add_slot(opened, owner, &Lock::KeyFile(&key(keys[0]))).map(drop),
            Deed::RemoveOnSight(_, number) => {
                let (there, _) = list_slots(opened)?;
                let (meant, others): (Vec<&OwnersSlot>, _) = owner.slots.iter().partition(|slot| slot.id() == *of(number));
                let is_there = |slot: &&OwnersSlot| slot.is_open() && there.iter().any(|there| there.name == slot.stored.name);
                if others.iter().any(is_there) { Ok(opened.backend.delete(&meant[0].stored.name)?) } else { Err(HostError::NoSecret) }
            }
        }
    }
}

/// A repository with three slots, which many runs begin with.
struct World {
    host: Host,
    ids: Vec<String>,
    objects: Vec<(ObjectName, Vec<u8>)>,
}

/// How a run has ended.
struct Ended {
    backend: Arc<dyn Backend>,
    /// Deed by deed.
    results: Vec<Result<(), HostError>>,
    calls: Vec<usize>,
}

impl World {
    fn new(slots: &[u8]) -> World {
        let memory: Arc<dyn Backend> = Arc::new(MemoryStore::default());
        let (host, ids) = with_slots(&memory, slots);
        let read = |object: Listed| (object.name.clone(), memory.read(&object.name, 1 << 20).unwrap());
        let objects = memory.list_sorted(None).unwrap().into_iter().map(read).collect();
        World { host, ids, objects }
    }

    fn run(&self, deeds: &[Deed], order: &[(usize, usize)], kills: &[Option<usize>]) -> Ended {
        let backend: Arc<dyn Backend> = Arc::new(MemoryStore::default());
        for (name, bytes) in &self.objects {
            let _ = backend.create(name, &[bytes], &SessionTag::new("test").unwrap()).unwrap();
        }
        let table = Table::new(order, kills);
        let seated: Vec<_> = deeds
            .iter()
            .enumerate()
            .map(|(who, deed)| {
                let seat = Arc::new(Seat { inner: Arc::clone(&backend), at: Mutex::new(None) });
                let (opened, owner) = owner(&self.host, &(Arc::clone(&seat) as Arc<dyn Backend>), deed.keys());
                *seat.at.lock().unwrap() = Some((table.clone(), who));
                (opened, owner)
            })
            .collect();
        let results = std::thread::scope(|scope| {
            let (table, ids) = (&table, &self.ids);
            let threads: Vec<_> = seated
                .iter()
                .zip(deeds)
                .enumerate()
                .map(|(who, ((opened, owner), deed))| {
                    scope.spawn(move || {
                        let result = deed.run(opened, owner, ids);
                        table.leave(who);
                        result
                    })
                })
                .collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        let calls = table.0.0.lock().unwrap().calls.iter().map(|(made, _)| *made).collect();
        Ended { backend, results, calls }
    }

    /// Whoever has all keys, after everything.
    fn survivor(&self, backend: &Arc<dyn Backend>) -> (Arc<Opened>, Owner) {
        owner(&self.host, backend, &[1, 2, 3])
    }

    /// The slots that are ways in, and those that are being removed.
    fn slots(&self, backend: &Arc<dyn Backend>) -> (Vec<StoredSlot>, Vec<StoredSlot>) {
        let (opened, owner) = self.survivor(backend);
        let view = opened.view();
        let of = |wanted: &dyn Fn(&OwnersSlot) -> bool| {
            owner.slots.iter().filter(|slot| wanted(slot)).map(|slot| slot.stored.clone()).collect::<Vec<_>>()
        };
        let going = |slot: &OwnersSlot| view.fold.keys.removed_slots.contains_key(&SlotId(slot.stored.slot.id()));
        (of(&|slot| slot.is_way_in(&view)), of(&going))
    }

    /// What must hold whatever has happened.
    fn check(&self, deeds: &[Deed], ended: &Ended) -> Result<(), String> {
        let (ways, going) = self.slots(&ended.backend);
        if ways.is_empty() {
            return Err("no way in is left".into());
        }
        let (opened, owner) = self.survivor(&ended.backend);
        let is_there = |id: &String| owner.slots.iter().any(|slot| slot.id() == *id);
        for (number, id) in self.ids.iter().enumerate() {
            let noted = opened.view().fold.keys.removed_slots.contains_key(&id.parse().unwrap());
            if !noted && !is_there(id) {
                return Err(format!("slot {} is gone, and the log doesn't say so", number + 1));
            }
        }
        for (deed, result) in deeds.iter().zip(&ended.results) {
            if let (Deed::Remove(_, number), Ok(())) = (deed, result)
                && is_there(&self.ids[usize::from(*number) - 1])
            {
                return Err(format!("{deed:?} is done, and the slot is there"));
            }
        }
        // What was interrupted is finished by doing it again, and a slot for the same key can be made anew.
        for slot in &going {
            remove_slot(&opened, &owner, &SlotId(slot.slot.id()).to_string()).map_err(|e| format!("can't be finished: {e}"))?;
        }
        let (opened, owner) = self.survivor(&ended.backend);
        let added = add_slot(&opened, &owner, &Lock::KeyFile(&key(1))).map_err(|e| format!("nothing can be added: {e}"))?;
        let (ways, going) = self.slots(&ended.backend);
        match going.is_empty() && ways.len() > 1 && ways.iter().any(|way| way.name == added.name) {
            true => Ok(()),
            false => Err(format!("{} ways in and {} half removed in the end", ways.len(), going.len())),
        }
    }

    #[track_caller]
    fn holds(&self, deeds: &[Deed], order: &[(usize, usize)], kills: &[Option<usize>]) -> Ended {
        let ended = self.run(deeds, order, kills);
        if let Err(why) = self.check(deeds, &ended) {
            panic!("{why}: {deeds:?} in the order {order:?}, killed {kills:?}: {:?}", ended.results);
        }
        ended
    }
}

/// How many calls a deed takes at the most, when it is alone.
fn calls(world: &World, deed: Deed) -> usize {
    let ended = world.run(&[deed], &[], &[None]);
    ended.results[0].as_ref().unwrap();
    ended.calls[0]
}

/// One of several that are tried; all with `PGCAIRN_TEST_FULL=1`.
fn is_due(number: usize) -> bool {
    number.is_multiple_of(5) || std::env::var_os("PGCAIRN_TEST_FULL").is_some_and(|v| !v.is_empty() && v != "0")
}

/// Each order of two with up to four changes of turns, nobody killed, either or both where they had stopped.
fn every_order_of_two(world: &World, deeds: [Deed; 2], mut each: impl FnMut(&[(usize, usize)], &[Option<usize>])) {
    let (first, second) = (calls(world, deeds[0]), calls(world, deeds[1]));
    for a in 0..=first {
        for b in 0..=second {
            each(&[(0, a), (1, b), (0, TO_THE_END)], &[None, Some(b)]);
            for c in (0..=first - a).filter(|c| is_due(a + b + c)) {
                let order = [(0, a), (1, b), (0, c), (1, TO_THE_END)];
                for kills in [[None, None], [Some(a + c), None], [Some(a + c), Some(b + 1)]] {
                    each(&order, &kills);
                }
            }
        }
    }
}

#[test]
fn two_who_remove_each_others_slot_at_every_step() {
    let world = World::new(&[1, 2]);
    let deeds = [Deed::Remove(&[2], 1), Deed::Remove(&[1], 2)];
    let mut both = 0;
    every_order_of_two(&world, deeds, |order, kills| {
        let ended = world.holds(&deeds, order, kills);
        assert!(ended.results.iter().any(Result::is_err), "both slots are removed");
        both += usize::from(kills == [None, None] && ended.results.iter().all(Result::is_err));
    });
    assert_eq!(both, 0, "nobody was killed, and nobody removed anything");
}

/// The test must be able to fail: whoever relies on what lies in the store alone shuts the last way in.
#[test]
fn what_is_removed_on_sight_leaves_no_way_in() {
    let world = World::new(&[1, 2]);
    let deeds = [Deed::RemoveOnSight(&[2], 1), Deed::RemoveOnSight(&[1], 2)];
    let mut lost = 0;
    every_order_of_two(&world, deeds, |order, kills| {
        let ended = world.run(&deeds, order, kills);
        lost += usize::from(list_slots(&owner_of_none(&world, &ended.backend)).unwrap().0.is_empty());
    });
    assert!(lost > 0);
}

fn owner_of_none(world: &World, backend: &Arc<dyn Backend>) -> Arc<Opened> {
    world.host.again(Arc::clone(backend)).unwrap()
}

/// In a circle: each counts on the slot that the next one removes.
#[test]
fn three_who_remove_each_others_slot_at_every_step() {
    let world = World::new(&[1, 2, 3]);
    let deeds = [Deed::Remove(&[2], 1), Deed::Remove(&[3], 2), Deed::Remove(&[1], 3)];
    let most = calls(&world, deeds[0]);
    let all = (0..=most).flat_map(|a| (0..=most).flat_map(move |b| (0..=most).map(move |c| (a, b, c))));
    for (a, b, c) in all.filter(|(a, b, c)| is_due(a + b + c)) {
        let order = [(0, a), (1, b), (2, c)];
        for kills in [[None, None, None], [Some(a), None, None], [None, Some(b), Some(c)], [Some(a), Some(b), Some(c)]] {
            world.holds(&deeds, &order, &kills);
        }
    }
}

#[test]
fn one_who_removes_beside_one_who_rotates_at_every_step() {
    let world = World::new(&[1, 2]);
    let deeds = [Deed::Remove(&[2], 1), Deed::Rotate(&[1, 2])];
    every_order_of_two(&world, deeds, |order, kills| _ = world.holds(&deeds, order, kills));
}

fn on_disk(fs: &ForgetfulFs) -> Arc<dyn Backend> {
    Arc::new(LocalStore::on(fs.clone(), "/r".into()).unwrap())
}

/// Somebody adds a slot and is killed at any step; another owner, who sees it, removes the one that was there before; the power
/// fails at any step of that, and nothing survives that was not made durable, or everything.
#[test]
fn a_power_failure_leaves_a_way_in_that_an_unfinished_add_has_made() {
    let fs = ForgetfulFs::new(1000);
    let (host, ids) = with_slots(&on_disk(&fs), &[1]);
    let base = fs.reboot(|| true);
    let add = |steps: usize| {
        let fs = base.reboot(|| true);
        let (adding, adds) = owner(&host, &on_disk(&fs), &[1]);
        fs.crash_at(fs.steps() + steps);
        let done = add_slot(&adding, &adds, &Lock::KeyFile(&key(2))).is_ok();
        fs.go_on();
        (fs, done)
    };
    let mut power_failures = 0;
    for added in 0.. {
        let (fs, done) = add(added);
        let seen = list_slots(&host.again(on_disk(&fs)).unwrap()).unwrap().0.len() == 2;
        for removed in 0.. {
            let (fs, _) = add(added);
            let (removing, removes) = owner(&host, &on_disk(&fs), &[1, 2]);
            fs.crash_at(fs.steps() + removed);
            let result = remove_slot(&removing, &removes, &ids[0]);
            for survives in [false, true] {
                let (opened, owner) = owner(&host, &on_disk(&fs.reboot(|| survives)), &[1, 2]);
                let ways = owner.slots.iter().filter(|slot| slot.is_way_in(&opened.view())).count();
                assert!(ways > 0, "no way in: added {added}, removed {removed}, survives {survives}");
                assert!(result.is_err() || owner.slots.iter().all(|slot| slot.id() != ids[0]), "{added} {removed}: it is back");
                power_failures += 1;
            }
            if result.is_ok() || !seen {
                break;
            }
        }
        if done {
            break;
        }
    }
    assert!(power_failures > 100, "{power_failures}");
}

/// Three of any kind in any order.
#[test]
fn three_who_change_slots_leave_a_way_in() {
    let world = World::new(&[1, 2, 3]);
    let any = prop::sample::select(vec![
        Deed::Remove(&[2], 1),
        Deed::Remove(&[1, 3], 2),
        Deed::Remove(&[1], 3),
        Deed::Remove(&[3], 1),
        Deed::Remove(&[2], 3),
        Deed::Rotate(&[1, 2, 3]),
        Deed::Add(&[1]),
        Deed::Add(&[3]),
    ]);
    let order = prop::collection::vec((0usize..3, 1usize..8), 0..24);
    let kills = prop::array::uniform3(prop::option::weighted(0.6, 0usize..40));
    let config = ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() };
    proptest!(config, |(deeds in prop::array::uniform3(any), order in order, kills in kills)| {
        let _ = world.holds(&deeds, &order, &kills);
    });
}
