//! Where to fetch packages: the mirror this host itself uses, read from its apt configuration.
//!
//! Reference: sources.list(5), both the one-line and the deb822 style.
//! Not modelled: options of a one-line entry other than `signed-by`; entries that are not `http`, `https` or `file`.

use super::sets::RELEASE;
use std::path::Path;

/// Debian's public mirror, for hosts whose own apt does not serve the guests' release.
pub const PUBLIC_MIRROR: &str = "http://deb.debian.org/debian";
pub const ARCHIVE_KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    pub uri: String,
    pub suite: String,
    pub signed_by: Option<String>,
}

impl Source {
    /// The one-line form for our private sources.list.
    pub fn line(&self, architecture: &str) -> String {
        let signed = self.signed_by.as_ref().map(|k| format!(" signed-by={k}")).unwrap_or_default();
        format!("deb [arch={architecture}{signed}] {} {} main", self.uri, self.suite)
    }
}

/// The host's entries for the guests' release, or the public mirror. Updates and security suites are left out: guests are
/// test input, one point release fits together, and mirrors of the moving suites are at times half-synchronized.
pub fn sources(etc_apt: &Path) -> Vec<Source> {
    let mut found = Vec::new();
    let mut files = vec![etc_apt.join("sources.list")];
    if let Ok(entries) = std::fs::read_dir(etc_apt.join("sources.list.d")) {
        files.extend(entries.flatten().map(|e| e.path()));
    }
    files.sort();
    for file in files {
        let Ok(text) = std::fs::read_to_string(&file) else { continue };
        match file.extension().and_then(|e| e.to_str()) {
            Some("list") => found.extend(one_line_style(&text)),
            Some("sources") => found.extend(deb822_style(&text)),
            _ => {}
        }
    }
    found.retain(|s| s.suite == RELEASE);
    found.sort_by_key(|s| s.uri.clone());
    found.dedup_by_key(|s| s.uri.clone());
    if found.is_empty() {
        let keyring = Path::new(ARCHIVE_KEYRING).exists().then(|| ARCHIVE_KEYRING.to_string());
        found = vec![Source { uri: PUBLIC_MIRROR.into(), suite: RELEASE.into(), signed_by: keyring }];
    }
    found
}

fn one_line_style(text: &str) -> Vec<Source> {
    let mut found = Vec::new();
    for line in text.lines() {
        let line = line.split('#').next().unwrap_or("");
        let mut rest = line.trim();
        let Some(after) = rest.strip_prefix("deb ") else { continue };
        rest = after.trim_start();
        let mut signed_by = None;
        if let Some(options) = rest.strip_prefix('[') {
            let Some((options, after)) = options.split_once(']') else { continue };
            signed_by = options.split_whitespace().find_map(|o| o.strip_prefix("signed-by=")).map(str::to_string);
            rest = after;
        }
        let words: Vec<&str> = rest.split_whitespace().collect();
        if let [uri, suite, components @ ..] = &words[..] {
            if components.contains(&"main") {
                found.push(Source { uri: uri.to_string(), suite: suite.to_string(), signed_by });
            }
        }
    }
    found
}

fn deb822_style(text: &str) -> Vec<Source> {
    let mut found = Vec::new();
    let lines: Vec<&str> = text.lines().filter(|l| !l.starts_with('#')).collect();
    for stanza in lines.split(|l| l.trim().is_empty()) {
        let field = |name: &str| -> Vec<&str> {
            let lower = name.to_ascii_lowercase() + ":";
            let start = stanza.iter().position(|l| l.to_ascii_lowercase().starts_with(&lower));
            let Some(start) = start else { return Vec::new() };
            let first = stanza[start].split_once(':').map(|(_, v)| v).unwrap_or("");
            let folded = stanza[start + 1..].iter().take_while(|l| l.starts_with([' ', '\t'])).copied();
            std::iter::once(first).chain(folded).flat_map(str::split_whitespace).collect()
        };
        let off = field("Enabled").first().is_some_and(|v| v.eq_ignore_ascii_case("no"));
        if off || !field("Types").contains(&"deb") || !field("Components").contains(&"main") {
            continue;
        }
        // An inline key ("-----BEGIN") is not a path; apt then falls back to the trusted keyrings.
        let signed_by = field("Signed-By").first().filter(|k| k.starts_with('/')).map(|k| k.to_string());
        for uri in field("URIs") {
            for suite in field("Suites") {
                found.push(Source { uri: uri.into(), suite: suite.into(), signed_by: signed_by.clone() });
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(uri: &str, suite: &str, key: Option<&str>) -> Source {
        Source { uri: uri.into(), suite: suite.into(), signed_by: key.map(str::to_string) }
    }

    #[test]
    fn one_line_entries_with_and_without_options() {
        let text = "# a comment\ndeb http://m/debian bookworm main contrib\ndeb-src http://m/debian bookworm main\n\
                    deb [arch=amd64 signed-by=/k.gpg] https://n/d bookworm-updates main # why\ndeb http://x/y stable nonfree\n";
        assert_eq!(
            one_line_style(text),
            [source("http://m/debian", "bookworm", None), source("https://n/d", "bookworm-updates", Some("/k.gpg"))]
        );
    }

    #[test]
    fn deb822_stanzas_with_folded_fields_and_a_disabled_one() {
        let text = "Types: deb deb-src\n# note\nURIs: http://m/debian\nSuites: bookworm\n bookworm-updates\nComponents: main\n\
                    Signed-By: /k.gpg\n\nEnabled: no\nTypes: deb\nURIs: http://z\nSuites: bookworm\nComponents: main\n";
        assert_eq!(
            deb822_style(text),
            [source("http://m/debian", "bookworm", Some("/k.gpg")), source("http://m/debian", "bookworm-updates", Some("/k.gpg"))]
        );
    }

    #[test]
    fn a_host_of_another_release_gets_the_public_mirror() {
        let found = sources(Path::new("/nonexistent"));
        assert_eq!(found.len(), 1);
        assert_eq!((found[0].uri.as_str(), found[0].suite.as_str()), (PUBLIC_MIRROR, RELEASE));
    }

    #[test]
    fn only_the_release_itself_is_taken_from_the_host() {
        let dir = std::env::temp_dir().join(format!("rhea-sources-{}", std::process::id()));
        std::fs::create_dir_all(dir.join("sources.list.d")).unwrap();
        let list = "deb http://a bookworm-security main\ndeb http://b bookworm main\ndeb http://c trixie main\n";
        std::fs::write(dir.join("sources.list"), list).unwrap();
        std::fs::write(dir.join("sources.list.d/off.sources.disabled"), "Types: deb\n").unwrap();
        assert_eq!(sources(&dir), [source("http://b", "bookworm", None)]);
        std::fs::remove_dir_all(&dir).unwrap();
    }

    #[test]
    fn the_line_for_our_own_sources_list() {
        assert_eq!(source("http://m", "bookworm", Some("/k")).line("armhf"), "deb [arch=armhf signed-by=/k] http://m bookworm main");
    }
}
