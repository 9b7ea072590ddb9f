//! Is a certificate of this host? As libpq says (fe-secure-common.c), which is wider than RFC 6125 in one thing: the
//! subject's common name counts where no alternative name is of the host's kind.
#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic))]

use std::net::IpAddr;

use super::x509::Certificate;

/// Does one of its names fit?
pub(super) fn fits(certificate: &Certificate, host: &str) -> bool {
    let address = host.parse::<IpAddr>().ok();
    let has_of_its_kind = match address {
        Some(_) => !certificate.addresses.is_empty(),
        None => !certificate.dns_names.is_empty(),
    };
    certificate.dns_names.iter().any(|name| name_fits(name, host))
        || address.is_some_and(|address| certificate.addresses.contains(&address))
        || !has_of_its_kind && certificate.common_name.as_ref().is_some_and(|name| name_fits(name, host))
}

/// One name, in which `*.` may stand for one label.
fn name_fits(name: &str, host: &str) -> bool {
    // A zero byte could hide a name's end from others.
    if name.contains('\0') || host.is_empty() {
        return false;
    }
    name.eq_ignore_ascii_case(host)
        || name
            .strip_prefix("*.")
            .filter(|domain| !domain.is_empty() && host.parse::<IpAddr>().is_err())
            .is_some_and(|domain| host.split_once('.').is_some_and(|(label, rest)| !label.is_empty() && rest.eq_ignore_ascii_case(domain)))
}

#[cfg(test)]
mod tests {
    use super::name_fits;

    #[test]
    fn a_star_is_one_label() {
        for (name, host, fits) in [
            ("db.example", "DB.example", true),
            ("db.example", "db.example.", false),
            ("*.example", "db.example", true),
            ("*.example", "a.db.example", false),
            ("*.example", ".example", false),
            ("*.example", "example", false),
            ("*", "db", false),
            ("*.", "db.", false),
            ("d*.example", "db.example", false),
            ("db.*", "db.example", false),
            ("127.0.0.1", "127.0.0.1", true),
            ("*.0.0.1", "127.0.0.1", false),
            ("db.example\0.evil", "db.example", false),
            ("", "", false),
        ] {
            assert_eq!(name_fits(name, host), fits, "{name:?} {host:?}");
        }
    }
}
