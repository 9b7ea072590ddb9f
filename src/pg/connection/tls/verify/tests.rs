use std::time::Duration;

use rcgen::ExtendedKeyUsagePurpose;
use rustls::pki_types::CertificateRevocationListDer;
use rustls::pki_types::pem::PemObject;
use webpki::OwnedCertRevocationList;

use super::*;

#[allow(dead_code)]
#[path = "../../../../../tests/support/certificates.rs"]
mod certificates;

use certificates::{Pair, Wish};

/// January 1st of a year, about.
fn year(year: u64) -> UnixTime {
    UnixTime::since_unix_epoch(Duration::from_secs((year - 1970) * 31_556_952))
}

fn der(pair: &Pair) -> CertificateDer<'static> {
    CertificateDer::from(pair.der.clone())
}

fn verifier(host: &str, roots: &[&Pair], crls: &[String]) -> Verifier {
    let roots = roots.iter().map(|root| der(root)).collect();
    let read = |text: &String| OwnedCertRevocationList::from_der(&CertificateRevocationListDer::from_pem_slice(text.as_bytes()).unwrap());
    let crls = crls.iter().map(|text| read(text).unwrap().into()).collect();
    let algorithms = rustls::crypto::ring::default_provider().signature_verification_algorithms;
    Verifier::new(host, Some(roots), crls, true, algorithms)
}

/// `ok`, or why not.
fn judge(verifier: &Verifier, chain: &[&Pair]) -> String {
    let others: Vec<_> = chain[1..].iter().map(|pair| der(pair)).collect();
    match verifier.judge(&der(chain[0]), &others, year(2026)) {
        Ok(()) => "ok".to_owned(),
        Err(error) => error.to_string(),
    }
}

#[track_caller]
fn says(verifier: &Verifier, chain: &[&Pair], words: &str) {
    let said = judge(verifier, chain);
    assert!(said.contains(words) && (said == "ok") == (words == "ok"), "{said:?} instead of {words:?}");
}

#[test]
fn a_chain_leads_to_a_root() {
    let (root, other) = (Wish::ca("root").self_signed(), Wish::ca("root").self_signed());
    let middle = Wish::ca("middle").signed_by(&root);
    let server = Wish::new("x").dns("db").signed_by(&middle);
    let direct = Wish::new("x").dns("db").signed_by(&root);
    says(&verifier("db", &[&root], &[]), &[&direct], "ok");
    says(&verifier("db", &[&other, &root], &[]), &[&direct], "ok");
    says(&verifier("db", &[&root], &[]), &[&server, &middle], "ok");
    says(&verifier("db", &[&root], &[]), &[&server, &direct, &middle], "ok");
    says(&verifier("db", &[&root], &[]), &[&server], "no root certificate fits");
    says(&verifier("db", &[&other], &[]), &[&direct], "no root certificate fits");
    says(&verifier("elsewhere", &[&root], &[]), &[&direct], "certificate for \"db\" does not match host name \"elsewhere\"");
    says(&verifier("db", &[], &[]), &[&direct], "no root certificate fits");
    // Whoever it is.
    let anybody = Verifier { roots: None, ..verifier("elsewhere", &[], &[]) };
    says(&anybody, &[&server], "ok");
    let chain_only = Verifier { whole: false, ..verifier("elsewhere", &[&root], &[]) };
    says(&chain_only, &[&direct], "ok");
}

#[test]
fn kinds_that_only_openssl_takes() {
    for v1 in [false, true] {
        let kind = |wish: Wish| if v1 { wish.v1() } else { wish };
        let root = Wish::ca("root").self_signed();
        let middle = Wish::ca("middle").signed_by(&root);
        // What PostgreSQL's documentation makes: a common name and nothing else.
        for chain in [vec![&root], vec![&middle, &root]] {
            let server = kind(Wish::like_openssl("db")).signed_by(chain[0]);
            let shown: Vec<&Pair> = [&server].into_iter().chain(chain.iter().copied().take(chain.len() - 1)).collect();
            says(&verifier("db", &[&root], &[]), &shown, "ok");
            says(&verifier("other", &[&root], &[]), &shown, "does not match host name");
            let stranger = Wish::ca("root").self_signed();
            says(&verifier("db", &[&stranger], &[]), &shown, "no root certificate fits");
            says(&verifier("db", &[&root], &[root.revoking(&[], 2090)]), &shown, "revocation list");
        }
        // A certificate that vouches for itself, named as the root: Debian's, and that of `openssl req -x509`.
        for wish in [Wish::new("db"), Wish::like_openssl("db")] {
            let own = kind(wish).self_signed();
            says(&verifier("db", &[&own], &[]), &[&own], "ok");
            says(&verifier("other", &[&own], &[]), &[&own], "does not match host name");
            let same_name = kind(Wish::like_openssl("db")).self_signed();
            says(&verifier("db", &[&same_name], &[]), &[&own], "not trusted");
            says(&verifier("db", &[&root], &[]), &[&own], "not trusted");
        }
        // One that isn't an authority can't vouch for another, neither as a root nor in between.
        let leaf = Wish::new("leaf").signed_by(&root);
        let below = kind(Wish::like_openssl("db")).signed_by(&leaf);
        says(&verifier("db", &[&root], &[]), &[&below, &leaf], "no root certificate fits");
        says(&verifier("db", &[&leaf], &[]), &[&below], "no root certificate fits");
        // Nor can one without extensions, but for a root.
        let (old, old_root) = (Wish::new("old").v1().signed_by(&root), Wish::new("old").v1().self_signed());
        says(&verifier("db", &[&root], &[]), &[&kind(Wish::like_openssl("db")).signed_by(&old), &old], "no root certificate fits");
        says(&verifier("db", &[&old_root], &[]), &[&kind(Wish::like_openssl("db")).signed_by(&old_root)], "ok");
        // Path lengths count.
        let short = Wish::ca("short").path_length(0).signed_by(&root);
        let long = Wish::ca("long").signed_by(&short);
        says(&verifier("db", &[&root], &[]), &[&kind(Wish::like_openssl("db")).signed_by(&short), &short], "ok");
        says(
            &verifier("db", &[&root], &[]),
            &[&kind(Wish::like_openssl("db")).signed_by(&long), &long, &short],
            "no root certificate fits",
        );
        // Times count, of all of the chain.
        let past = kind(Wish::like_openssl("db").years(2020, 2021)).signed_by(&root);
        says(&verifier("db", &[&root], &[]), &[&past], "has expired at 2021-01-01");
        let future = kind(Wish::like_openssl("db").years(2090, 2091)).self_signed();
        says(&verifier("db", &[&future], &[]), &[&future], "not valid before 2090-01-01");
        let past = Wish::ca("past").years(2020, 2021).signed_by(&root);
        says(&verifier("db", &[&root], &[]), &[&kind(Wish::like_openssl("db")).signed_by(&past), &past], "no root certificate fits");
    }
}

#[test]
fn many_certificates_cost_little() {
    // All authorities have one name, so that any may have signed any.
    let root = Wish::ca("root").self_signed();
    let crowd: Vec<Pair> = (0..40).map(|_| Wish::like_openssl("crowd").self_signed()).collect();
    let server = Wish::new("db").v1().signed_by(&Wish::like_openssl("crowd").self_signed());
    let shown: Vec<&Pair> = [&server].into_iter().chain(&crowd).collect();
    says(&verifier("db", &[&root], &[]), &shown, "no root certificate fits");
}

#[test]
fn times_and_usages_count() {
    let root = Wish::ca("root").self_signed();
    let old_root = Wish::ca("old root").years(2020, 2021).self_signed();
    says(&verifier("db", &[&root], &[]), &[&Wish::new("db").years(2020, 2021).signed_by(&root)], "has expired");
    says(&verifier("db", &[&old_root], &[]), &[&Wish::new("db").signed_by(&old_root)], "a root certificate has expired");
    let client = Wish::new("db").usage(ExtendedKeyUsagePurpose::ClientAuth).signed_by(&root);
    says(&verifier("db", &[&root], &[]), &[&client], "not for servers");
    let client = Wish::new("db").usage(ExtendedKeyUsagePurpose::ClientAuth).self_signed();
    says(&verifier("db", &[&client], &[]), &[&client], "not for servers");
    let server = Wish::new("db").usage(ExtendedKeyUsagePurpose::ServerAuth).signed_by(&root);
    says(&verifier("db", &[&root], &[]), &[&server], "ok");
}

#[test]
fn names_follow_libpq() {
    let root = Wish::ca("root").self_signed();
    let of = |wish: Wish, host: &str| judge(&verifier(host, &[&root], &[]), &[&wish.signed_by(&root)]) == "ok";
    // The common name counts where no other is of the host's kind.
    assert!(of(Wish::new("db"), "db") && of(Wish::new("db"), "DB") && of(Wish::new("*.example"), "db.example"));
    assert!(!of(Wish::new("db").dns("other"), "db") && of(Wish::new("db").ip("10.0.0.1"), "db"));
    assert!(of(Wish::new("127.0.0.1"), "127.0.0.1") && of(Wish::new("127.0.0.1").dns("db"), "127.0.0.1"));
    assert!(!of(Wish::new("127.0.0.1").ip("10.0.0.1"), "127.0.0.1"));
    assert!(of(Wish::new("x").ip("127.0.0.1").dns("db"), "127.0.0.1") && of(Wish::new("x").ip("::1"), "::1"));
    assert!(of(Wish::new("x").dns("a").dns("*.b"), "c.b") && !of(Wish::new("x").dns("*.b"), "d.c.b"));
    assert!(!of(Wish::new("x").dns("db"), "127.0.0.1") && !of(Wish::new("x").ip("127.0.0.1"), "x.y"));
}

#[test]
fn revocation_lists_are_asked() {
    let root = Wish::ca("root").self_signed();
    let middle = Wish::ca("middle").serial(7).signed_by(&root);
    let server = Wish::new("db").serial(5).signed_by(&root);
    let below = Wish::new("db").serial(6).signed_by(&middle);
    let with = |crls: &[String]| verifier("db", &[&root], crls);
    says(&with(&[root.revoking(&[6], 2090)]), &[&server], "ok");
    says(&with(&[root.revoking(&[5], 2090)]), &[&server], "it is revoked");
    says(&with(&[root.revoking(&[], 2022)]), &[&server], "out of date");
    // All of the chain has to be looked up.
    says(&with(&[root.revoking(&[], 2090)]), &[&below, &middle], "no revocation list");
    says(&with(&[root.revoking(&[], 2090), middle.revoking(&[], 2090)]), &[&below, &middle], "ok");
    says(&with(&[root.revoking(&[7], 2090), middle.revoking(&[], 2090)]), &[&below, &middle], "it is revoked");
    says(&with(&[root.revoking(&[], 2090), middle.revoking(&[6], 2090)]), &[&below, &middle], "it is revoked");
    let stranger = Wish::ca("root").self_signed();
    says(&with(&[stranger.revoking(&[], 2090)]), &[&server], "not trusted");
    let own = Wish::new("db").self_signed();
    says(&verifier("db", &[&own], &[root.revoking(&[], 2090)]), &[&own], "itself the root");
}

/// Whatever a certificate is changed into, nobody believes it and nothing breaks.
#[test]
fn a_changed_certificate_is_not_believed() {
    let root = Wish::ca("root").self_signed();
    let makes: [fn(&Pair) -> Pair; 4] = [
        |root| Wish::new("db").dns("db").signed_by(root),
        |root| Wish::like_openssl("db").signed_by(root),
        |root| Wish::new("db").v1().signed_by(root),
        |_| Wish::like_openssl("db").self_signed(),
    ];
    for make in makes {
        let server = make(&root);
        let verifier = verifier("db", &[&root, &server], &[]);
        assert_eq!(verifier.judge(&der(&server), &[], year(2026)), Ok(()));
        for at in 0..server.der.len() {
            for bit in [0x01, 0x20, 0x80] {
                let mut changed = server.der.clone();
                changed[at] ^= bit;
                let judged = verifier.judge(&CertificateDer::from(changed), &[], year(2026));
                assert!(judged.is_err(), "byte {at}, bit {bit:#x}");
            }
            assert!(verifier.judge(&CertificateDer::from(server.der[..at].to_vec()), &[], year(2026)).is_err(), "cut at {at}");
        }
    }
}

/// Every certificate that this system believes can be read, so that none is left out unseen.
#[test]
fn certificates_of_the_system_are_read() {
    for certificate in rustls_native_certs::load_native_certs().certs {
        Certificate::parse(&certificate).unwrap();
        anchor_from_trusted_cert(&certificate).unwrap();
    }
}
