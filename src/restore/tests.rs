//! Whole restores of small snapshots.

use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};

use super::target::TargetSettings;
use super::testing::{As, TestFolder, TestSnapshot, file, folder};
use super::*;
use crate::pg::control_file::ControlFile;
use crate::pg::facts::{ClusterFacts, ConfigFile, ConfigFolder, ConfigRole, ConfigurationFacts, DamagedPage, TablespaceFact};
use crate::pg::recovery::{RecoveryTarget, TargetAction, TargetTimeline};
use crate::units::ids::hex;
use crate::units::{Class, Explain, Lsn, Quiet, SegmentSize, TimelineId, Timestamp};

/// That of a server that ran: the fixture's was stopped.
pub(super) fn control_of(state: u32) -> Vec<u8> {
    let mut bytes = include_bytes!("../../tests/fixtures/pg/18/pg_control").to_vec();
    bytes[16..20].copy_from_slice(&state.to_le_bytes());
    let crc = crc32c::crc32c(&bytes[..292]);
    bytes[292..296].copy_from_slice(&crc.to_le_bytes());
    bytes.resize(8192, 0);
    bytes
}

pub(super) const RUNNING: u32 = 6;
const STOPPED: u32 = 1;

const LABEL: &str = "START WAL LOCATION: 0/3000028 (file 000000010000000000000003)\nCHECKPOINT LOCATION: 0/3000080\n\
                     BACKUP METHOD: streamed\nBACKUP FROM: primary\nSTART TIME: 2026-11-24 13:30:00 UTC\nLABEL: x\nSTART TIMELINE: 1\n";

pub(super) fn facts() -> ClusterFacts {
    let bytes = control_of(RUNNING);
    let control = ControlFile::parse(&bytes).unwrap();
    ClusterFacts {
        pg_version: "18.6".into(),
        major: 18,
        system_identifier: control.system_identifier,
        catalog_version: control.catalog_version,
        segment_size: SegmentSize::DEFAULT,
        block_size: 8192,
        control_file: hex(&bytes[..300]),
        backup_label: Some(LABEL.into()),
        tablespace_map: Some("16385 /old/place\n".into()),
        tablespaces: vec![TablespaceFact { oid: 16385, name: Some("fast".into()), path: "/old/place".into(), path_bytes: None }],
        start_lsn: Lsn(0x300_0028),
        stop_lsn: Lsn(0x400_0120),
        start_timeline: TimelineId(1),
        stop_timeline: TimelineId(1),
        started_at: Timestamp(0),
        stopped_at: Timestamp(1),
        offline: false,
        from_standby: false,
        wal_copied: true,
        data_directory: "/old".into(),
        architecture: std::env::consts::ARCH.into(),
        left_out: Vec::new(),
        damaged: Vec::new(),
        settings: Default::default(),
        configuration: None,
    }
}

pub(super) fn cluster() -> Vec<TestFolder> {
    let control = file("pg_control", "a foreign one", As::Joint);
    vec![
        folder(
            "",
            vec![
                file("PG_VERSION", "18\n", As::Joint),
                file("postgresql.conf", "port = 5432\n", As::Joint),
                file("postgresql.auto.conf", "restore_command = 'old'\nwork_mem = '4MB'", As::Joint),
                file("standby.signal", "", As::Empty),
                file("backup_label", "a foreign one", As::Joint),
            ],
        ),
        folder("base/1", vec![file("1259", vec![7; 8192], As::Single), file("1260", vec![0; 16384], As::Zeros)]),
        folder("global", vec![file("1262", vec![5; 8192], As::Single), control]),
        folder("pg_tblspc", vec![]),
        folder("pg_tblspc/16385", vec![]),
        folder("pg_tblspc/16385/PG_18_202506291/5", vec![file("16386", vec![1; 8192], As::Single)]),
        folder("pg_wal", vec![file("000000010000000000000003", "wal", As::Joint), file("000000010000000000000004", "wal", As::Joint)]),
    ]
}

pub(super) fn store(facts: &ClusterFacts, folders: &[TestFolder]) -> TestSnapshot {
    TestSnapshot::store(folders, serde_json::to_value(facts).unwrap(), |_, _| {})
}

pub(super) fn options(to: PathBuf) -> RestoreOptions {
    RestoreOptions {
        tablespaces: vec![("fast".into(), to.with_extension("space"))],
        to,
        snapshot: "20261124-133000-7f3a".into(),
        in_place: None,
        tablespace_root: None,
        config_files: Default::default(),
        recovery: Recovery::Target {
            restore_command: "pgcairn archive-get %f \"%p\" --repo '/a b'".into(),
            settings: TargetSettings {
                target: RecoveryTarget::Lsn(Lsn(0x500_0000)),
                inclusive: true,
                timeline: TargetTimeline::Current,
                action: TargetAction::Promote,
                gap_behind: false,
            },
        },
        archive_mode: ArchiveMode::Off,
        settings: vec![("port".into(), "5433".into())],
        wal_ranges: Vec::new(),
    }
}

fn restore(stored: &TestSnapshot, options: &RestoreOptions) -> Result<(RestorePlan, Restored), RestoreError> {
    let snapshot = stored.open();
    let plan = prepare(&snapshot, options)?;
    let done = execute(&plan, &snapshot, &stored.packs, &stored.opening, 2, &Quiet, &Cancel::new())?;
    Ok((plan, done))
}

/// Warnings but for that of tests that root runs.
fn of_interest(plan: &RestorePlan) -> Vec<&str> {
    plan.warnings.iter().map(String::as_str).filter(|w| !w.contains("belonged to root")).collect()
}

fn read(path: PathBuf) -> String {
    fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

#[test]
fn servers_that_read_ahead_must_not_where_a_gap_follows() {
    let scratch = tempfile::tempdir().unwrap();
    let stored = store(&facts(), &cluster());
    let mut options = options(scratch.path().join("data"));
    let off = |options: &RestoreOptions| {
        let plan = prepare(&stored.open(), options).unwrap();
        plan.settings.iter().any(|(name, value)| name == "recovery_prefetch" && value == b"off")
    };
    assert!(!off(&options));
    if let Recovery::Target { settings, .. } = &mut options.recovery {
        settings.gap_behind = true;
    }
    assert!(off(&options));
}

#[test]
fn a_snapshot_becomes_a_data_directory() {
    let scratch = tempfile::tempdir().unwrap();
    let to = scratch.path().join("new/data");
    let stored = store(&facts(), &cluster());
    let (plan, done) = restore(&stored, &options(to.clone())).unwrap();
    assert!(fs::read(to.join("global/pg_control")).unwrap() == control_of(RUNNING));
    assert_eq!(read(to.join("backup_label")), LABEL);
    assert_eq!(fs::metadata(to.join("recovery.signal")).unwrap().len(), 0);
    for absent in ["tablespace_map", "standby.signal", "global/pg_control.pgcairn"] {
        assert!(!to.join(absent).exists(), "{absent}");
    }
    assert_eq!(
        read(to.join("postgresql.auto.conf")),
        "work_mem = '4MB'\n# Written by pgcairn at restore\nrecovery_target = ''\n\
         recovery_target_name = ''\nrecovery_target_time = ''\nrecovery_target_xid = ''\nrecovery_end_command = ''\n\
         archive_cleanup_command = ''\nrecovery_min_apply_delay = '0'\nrestore_command = 'pgcairn archive-get %f \"%p\" --repo ''/a b'''\n\
         recovery_target_lsn = '0/5000000'\nrecovery_target_action = 'promote'\nrecovery_target_inclusive = 'on'\n\
         recovery_target_timeline = 'current'\narchive_mode = 'off'\nport = '5433'\n"
    );
    for there in ["pg_replslot", "pg_wal/archive_status", "pg_wal/summaries", "pg_tblspc/16385/PG_18_202506291/5", "base/1"] {
        assert!(to.join(there).is_dir(), "{there}");
    }
    assert_eq!(fs::read_link(to.join("pg_tblspc/16385")).unwrap(), fs::canonicalize(to.with_extension("space")).unwrap());
    // The segment before the stop's is marked, that of the stop is not: the server writes on in it.
    let marks: Vec<_> = fs::read_dir(to.join("pg_wal/archive_status")).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(marks, ["000000010000000000000003.done"]);
    assert_eq!(fs::metadata(to.join("backup_label")).unwrap().mode() & 0o777, 0o600);
    assert_eq!(done.files, 8);
    assert!(plan.to_string().contains("fast -> ") && plan.to_string().contains("recovery_target_lsn"), "{plan}");
    assert_eq!(of_interest(&plan), Vec::<&str>::new());

    // The manifest lists what is there, but for WAL and signals.
    let manifest: serde_json::Value = serde_json::from_str(&read(to.join("backup_manifest"))).unwrap();
    let mut listed: Vec<&str> = manifest["Files"].as_array().unwrap().iter().map(|f| f["Path"].as_str().unwrap()).collect();
    listed.sort_unstable();
    assert_eq!(
        listed,
        [
            "PG_VERSION",
            "backup_label",
            "base/1/1259",
            "base/1/1260",
            "global/1262",
            "global/pg_control",
            "pg_tblspc/16385/PG_18_202506291/5/16386",
            "postgresql.auto.conf",
            "postgresql.conf",
        ]
    );
    for f in manifest["Files"].as_array().unwrap() {
        let bytes = fs::read(to.join(f["Path"].as_str().unwrap())).unwrap();
        assert_eq!(f["Size"], bytes.len());
        assert_eq!(f["Checksum"], hex(&crc32c::crc32c(&bytes).to_le_bytes()));
    }
    assert_eq!(manifest["WAL-Ranges"][0]["Start-LSN"], "0/3000028");
}

#[test]
fn what_stands_against_it_is_said_before_a_byte_is_written() {
    let stored = store(&facts(), &cluster());
    let scratch = tempfile::tempdir().unwrap();
    let root = scratch.path();
    fs::create_dir(root.join("full")).unwrap();
    fs::write(root.join("full/x"), "").unwrap();
    fs::write(root.join("file"), "").unwrap();
    symlink("nowhere", root.join("broken")).unwrap();
    let good = || options(root.join("data"));
    let to = |name: &str| RestoreOptions { to: root.join(name), ..good() };
    let spaces = |list: &[(&str, &str)]| RestoreOptions {
        tablespaces: list.iter().map(|(oid, place)| ((*oid).to_owned(), root.join(place))).collect(),
        ..good()
    };
    let setting = |name: &str| RestoreOptions { settings: vec![(name.to_owned(), "1".into())], ..good() };
    let cases: Vec<(&str, RestoreOptions, Class, &str)> = vec![
        ("full", to("full"), Class::Refused, "is not empty: it holds x"),
        ("file", to("file"), Class::Refused, "is no folder"),
        ("below a file", to("file/data"), Class::Refused, "is no folder"),
        ("link to nothing", to("broken"), Class::Usage, "a link to nothing"),
        ("space full", spaces(&[("fast", "full")]), Class::Refused, "is not empty"),
        ("space inside", spaces(&[("16385", "data/space")]), Class::Refused, "lie within each other"),
        ("space around", spaces(&[("16385", ".")]), Class::Refused, "lie within each other"),
        ("unknown space", spaces(&[("slow", "s")]), Class::Usage, "has no tablespace slow"),
        ("bad setting", setting("a = 1\nb"), Class::Usage, "is not the name of a setting"),
    ];
    for (what, options, class, words) in cases {
        let error = restore(&stored, &options).expect_err(what);
        assert_eq!((error.class(), error.to_string().contains(words)), (class, true), "{what}: {error}");
    }
    let names: Vec<_> = fs::read_dir(root).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(names.len(), 3, "nothing was made: {names:?}");
}

#[test]
fn tablespaces_go_where_they_are_told() {
    let scratch = tempfile::tempdir().unwrap();
    let root = fs::canonicalize(scratch.path()).unwrap();
    let at = |place: &Path| TablespaceFact { oid: 16385, name: None, path: place.to_str().unwrap().into(), path_bytes: None };
    let original = root.join("original");
    let stored = store(&ClusterFacts { tablespaces: vec![at(&original)], ..facts() }, &cluster());
    let unmapped = |to: &str| RestoreOptions { tablespaces: Vec::new(), ..options(root.join(to)) };
    // To the original place, once: then it is occupied.
    let (plan, _) = restore(&stored, &unmapped("one")).unwrap();
    assert!(original.join("PG_18_202506291/5/16386").is_file());
    assert!(of_interest(&plan)[0].contains("original place"), "{:?}", plan.warnings);
    let error = restore(&stored, &unmapped("two")).unwrap_err();
    assert!(matches!(&error, RestoreError::TablespaceOccupied { oid: 16385, .. }), "{error}");
    assert!(error.cure().unwrap().contains("--tablespace 16385=DIR") && !root.join("two").exists());
    // Below a root, by oid.
    let rooted = RestoreOptions { tablespace_root: Some(root.join("spaces")), ..unmapped("three") };
    restore(&stored, &rooted).unwrap();
    assert!(root.join("spaces/16385/PG_18_202506291/5/16386").is_file());
    // A place that is none, unless it is mapped.
    let nowhere = store(&ClusterFacts { tablespaces: vec![at(Path::new("relative"))], ..facts() }, &cluster());
    assert!(matches!(restore(&nowhere, &unmapped("four")), Err(RestoreError::BadPlace { .. })));
    restore(&nowhere, &RestoreOptions { tablespace_root: Some(root.join("more")), ..unmapped("four") }).unwrap();
}

#[test]
fn facts_that_would_corrupt_silently_are_refused() {
    let scratch = tempfile::tempdir().unwrap();
    let label = |text: &str| ClusterFacts { backup_label: Some(text.into()), ..facts() };
    let control = |hex: String| ClusterFacts { control_file: hex, ..facts() };
    let mut unknown = control_of(RUNNING);
    unknown[8..12].copy_from_slice(&2000u32.to_le_bytes());
    let mut torn = control_of(RUNNING);
    torn[40] ^= 1;
    for (what, facts, class) in [
        ("no label", ClusterFacts { backup_label: None, ..facts() }, Class::Corrupt),
        ("no label, offline, and the server ran", ClusterFacts { backup_label: None, offline: true, ..facts() }, Class::Corrupt),
        ("another start", ClusterFacts { start_lsn: Lsn(0x300_0030), ..facts() }, Class::Corrupt),
        ("incremental", label(&format!("{LABEL}INCREMENTAL FROM LSN: 0/2000028\n")), Class::Corrupt),
        ("another cluster's", ClusterFacts { system_identifier: 1, ..facts() }, Class::Corrupt),
        ("torn", control(hex(&torn[..300])), Class::Corrupt),
        ("no hex", control("xy".into()), Class::Corrupt),
        ("too long", control("00".repeat(8193)), Class::Corrupt),
        ("unknown version", control(hex(&unknown[..300])), Class::Refused),
    ] {
        let error = restore(&store(&facts, &cluster()), &options(scratch.path().join("data"))).expect_err(what);
        assert_eq!(error.class(), class, "{what}: {error}");
    }
    assert_eq!(fs::read_dir(scratch.path()).unwrap().count(), 0);
    // A stopped cluster has no label, and needs none; what it holds of WAL goes on and is not marked as archived.
    let stopped = ClusterFacts { backup_label: None, offline: true, ..control(hex(&control_of(STOPPED)[..300])) };
    let to = scratch.path().join("data");
    restore(&store(&stopped, &cluster()), &options(to.clone())).unwrap();
    assert!(!to.join("backup_label").exists());
    assert_eq!(fs::read_dir(to.join("pg_wal/archive_status")).unwrap().count(), 0);
}

#[test]
fn an_interrupted_restore_has_no_pg_control() {
    let scratch = tempfile::tempdir().unwrap();
    let to = scratch.path().join("data");
    // A file that can't be: found out in the middle.
    let mut folders = cluster();
    folders[1].files.push(file("1259", "again", As::Single));
    let stored = store(&facts(), &folders);
    assert_eq!(restore(&stored, &options(to.clone())).unwrap_err().class(), Class::Corrupt);
    assert!(to.join("base/1").is_dir() && !to.join("global/pg_control").exists());
    let error = restore(&stored, &options(to)).unwrap_err();
    assert!(matches!(&error, RestoreError::Unfinished { snapshot, .. } if snapshot == "20261124-133000-7f3a"), "{error}");
    assert!(error.cure().unwrap().contains("--delta"));
}

#[test]
fn a_snapshot_that_holds_its_wal_needs_no_settings() {
    let scratch = tempfile::tempdir().unwrap();
    let to = scratch.path().join("data");
    let plain =
        RestoreOptions { recovery: Recovery::AsItself, archive_mode: ArchiveMode::Preserve, settings: vec![], ..options(to.clone()) };
    restore(&store(&facts(), &cluster()), &plain).unwrap();
    assert!(!to.join("recovery.signal").exists() && to.join("backup_label").exists());
    assert_eq!(read(to.join("postgresql.auto.conf")), "work_mem = '4MB'\n");
    let standby = RestoreOptions { recovery: Recovery::Standby { restore_command: "x".into() }, ..options(scratch.path().join("standby")) };
    restore(&store(&facts(), &cluster()), &standby).unwrap();
    assert!(scratch.path().join("standby/standby.signal").exists() && !scratch.path().join("standby/recovery.signal").exists());
}

#[test]
fn what_deserves_a_look_is_said() {
    let scratch = tempfile::tempdir().unwrap();
    let damaged = (0..9).map(|block| DamagedPage { path: "base/1/1259".into(), fork: "main".into(), block, why: "x".into() }).collect();
    let odd = ClusterFacts { damaged, architecture: "vax".into(), ..facts() };
    let mut folders = cluster();
    folders[0].files.retain(|f| f.name != b"postgresql.conf");
    let stored = store(&odd, &folders);
    let snapshot = stored.open();
    let none = RestoreOptions { recovery: Recovery::None, ..options(scratch.path().join("data")) };
    let warnings = prepare(&snapshot, &none).unwrap().warnings.join("\n");
    for words in ["ran on vax", "9 pages were damaged", "base/1/1259 block 4, …", "max_connections = 100", "postgresql.conf lay outside"]
    {
        assert!(warnings.contains(words), "{words} is not in {warnings}");
    }
}

fn config_file(file: &str, path: &str, role: ConfigRole) -> ConfigFile {
    ConfigFile { file: file.into(), path: path.into(), path_bytes: None, role, top: true, names: false }
}

/// A cluster with these configuration files outside its data directory, all with one content.
fn configured(files: Vec<ConfigFile>, folders: &[&str]) -> TestSnapshot {
    let folder_of = |path: &&str| ConfigFolder { path: (*path).to_owned(), path_bytes: None };
    let configuration = ConfigurationFacts { files, folders: folders.iter().map(folder_of).collect(), missing: Vec::new() };
    let mut all = cluster();
    all.push(folder("annex:configuration", vec![file("0000", "include_dir = 'conf.d'\nhba_file = '/etc/x'\n", As::Joint)]));
    store(&ClusterFacts { configuration: Some(configuration), ..facts() }, &all)
}

#[test]
fn copies_of_configuration_files_lie_beside_or_inside() {
    let scratch = tempfile::tempdir().unwrap();
    let root = fs::canonicalize(scratch.path()).unwrap();
    let stored = configured(
        vec![config_file("0000", "/etc/pg/main.conf", ConfigRole::Config), config_file("0000", "/etc/pg/rules", ConfigRole::Hba)],
        &["/etc/pg/conf.d"],
    );
    let to = root.join("data");
    let (plan, _) = restore(&stored, &options(to.clone())).unwrap();
    let config = root.join("data.config");
    assert_eq!(plan.configuration.unwrap().config_file, Some(config.join("restored.conf")));
    let main = read(config.join("restored.conf"));
    let lines: Vec<&str> = main.lines().filter(|line| !line.starts_with('#')).collect();
    let (data, rules) = (format!("data_directory = '{}'", to.display()), format!("hba_file = '{}/etc/pg/rules'", config.display()));
    assert_eq!(lines, ["include 'etc/pg/main.conf'", &data, &rules]);
    assert!(read(config.join("etc/pg/main.conf")).contains("# of the original: hba_file"));
    assert!(config.join("etc/pg/conf.d").is_dir());
    let mode = |path: &Path| fs::metadata(path).unwrap().mode() & 0o777;
    assert_eq!((mode(&config), mode(&config.join("etc/pg/rules"))), (0o700, 0o600));
    assert_eq!(read(to.join("postgresql.conf")), "port = 5432\n", "that of the data directory stays as it was");

    let inside = RestoreOptions {
        config_files: ConfigFiles::Inside,
        tablespaces: Vec::new(),
        tablespace_root: Some(root.join("t")),
        ..options(root.join("two"))
    };
    let (plan, _) = restore(&stored, &inside).unwrap();
    assert_eq!(plan.configuration.unwrap().config_file, None);
    let main = read(root.join("two/postgresql.conf"));
    assert_eq!(main.lines().filter(|line| !line.starts_with('#')).collect::<Vec<_>>(), ["include 'restored.config/etc/pg/main.conf'"]);
    assert!(root.join("two/pg_hba.conf").exists() && root.join("two/restored.config/etc/pg/conf.d").is_dir());
    assert!(!root.join("two.config").exists());
    let manifest = read(root.join("two/backup_manifest"));
    assert!(manifest.contains("restored.config/etc/pg/main.conf") && manifest.contains("\"postgresql.conf\""), "{manifest}");
}

#[test]
fn hostile_configuration_files_are_refused_before_anything_is_written() {
    let scratch = tempfile::tempdir().unwrap();
    let root = fs::canonicalize(scratch.path()).unwrap();
    let one = |path: &str| vec![config_file("0000", path, ConfigRole::Config)];
    let bytes = |hex: &str| vec![ConfigFile { path_bytes: Some(hex.into()), ..config_file("0000", "/a", ConfigRole::Config) }];
    let two = |a: &str, b: &str| vec![config_file("0000", a, ConfigRole::Config), config_file("0000", b, ConfigRole::Hba)];
    let long = format!("/{}", "x".repeat(256));
    let deep = "/a".repeat(65);
    let cases: Vec<(&str, Vec<ConfigFile>, Vec<&str>)> = vec![
        ("relative", one("etc/a"), vec![]),
        ("up", one("/etc/../../a"), vec![]),
        ("root", one("/"), vec![]),
        ("empty", one(""), vec![]),
        ("double", one("/etc//a"), vec![]),
        ("zero", one("/etc/a\0b"), vec![]),
        ("long", one(&long), vec![]),
        ("deep", one(&deep), vec![]),
        ("no hex", bytes("zz"), vec![]),
        ("hex up", bytes("2f2e2e2f61"), vec![]),
        ("absent", vec![config_file("0001", "/a", ConfigRole::Config)], vec![]),
        ("twice", two("/a", "/a"), vec![]),
        ("below a file", two("/a", "/a/b"), vec![]),
        ("over our own", two("/a", "/restored.conf"), vec![]),
        ("too many", (0..1001).map(|n| config_file("0000", &format!("/{n}"), ConfigRole::Hba)).collect(), vec![]),
        ("a folder up", one("/a"), vec!["/../b"]),
        ("a folder is a file", one("/a"), vec!["/a"]),
    ];
    for (name, files, folders) in cases {
        let stored = configured(files, &folders);
        let error = restore(&stored, &options(root.join("data"))).unwrap_err();
        assert!(matches!(error, RestoreError::Corrupt { .. }), "{name}: {error}");
        assert_eq!(fs::read_dir(&root).unwrap().count(), 0, "{name}");
    }
}

#[test]
fn what_lies_beside_is_not_overwritten() {
    let scratch = tempfile::tempdir().unwrap();
    let root = fs::canonicalize(scratch.path()).unwrap();
    let stored = configured(vec![config_file("0000", "/etc/pg.conf", ConfigRole::Config)], &[]);
    fs::create_dir(root.join("data.config")).unwrap();
    fs::write(root.join("data.config/mine"), "").unwrap();
    let error = restore(&stored, &options(root.join("data"))).unwrap_err();
    assert!(matches!(error, RestoreError::ConfigPlace { .. }) && error.class() == Class::Refused);
    assert!(error.cure().unwrap().contains("--config-files"));
    fs::remove_dir_all(root.join("data.config")).unwrap();
    symlink(root.join("elsewhere"), root.join("data.config")).unwrap();
    assert!(restore(&stored, &options(root.join("data"))).is_err());
    assert!(!root.join("elsewhere").exists() && !root.join("data").exists());
}
