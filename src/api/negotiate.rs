//! What form of an answer the client wants: `Accept` read clause by clause, never matched by substring.
//!
//! Goes in: request headers. Comes out: a form that podd can make, or 406.

use axum::http::{HeaderMap, header};

use super::error::ApiError;

/// How an object or a list is to be shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum View {
    /// As it is stored.
    Object,
    /// `meta.k8s.io` Table, in the version asked for (`v1`, `v1beta1`).
    Table(&'static str),
    /// `meta.k8s.io` `PartialObjectMetadata` (`List`), in the version asked for.
    Partial(&'static str),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Format {
    Json,
    Yaml,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Form {
    pub(crate) view: View,
    pub(crate) format: Format,
}

/// The document `/api` and `/apis` answer with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Discovery {
    /// `APIVersions`, `APIGroupList`.
    Legacy,
    /// `APIGroupDiscoveryList` of `apidiscovery.k8s.io`, in this version (`v2`, `v2beta1`).
    Aggregated(&'static str),
}

/// One clause of `Accept`: a media type, its parameters, its weight in thousandths.
#[derive(Debug)]
struct Clause<'a> {
    media: String,
    params: Vec<(String, &'a str)>,
    weight: u32,
}

impl Clause<'_> {
    fn param(&self, name: &str) -> Option<&str> {
        self.params.iter().find(|(n, _)| n == name).map(|(_, v)| *v)
    }

    fn is_any(&self) -> bool {
        self.media == "*/*" || self.media == "application/*"
    }
}

/// The clauses of `Accept`, the heaviest first, those of equal weight in the order they were written.
fn clauses(headers: &HeaderMap) -> Vec<Clause<'_>> {
    let mut found: Vec<Clause<'_>> = headers
        .get_all(header::ACCEPT)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|clause| {
            let mut parts = clause.split(';').map(str::trim);
            let media = parts.next().filter(|m| !m.is_empty())?.to_ascii_lowercase();
            let params: Vec<(String, &str)> = parts
                .filter_map(|p| p.split_once('='))
                .map(|(name, value)| (name.trim().to_ascii_lowercase(), value.trim().trim_matches('"')))
                .collect();
            let weight = params
                .iter()
                .find(|(n, _)| n == "q")
                .map_or(1000, |(_, v)| thousandths(v));
            Some(Clause { media, params, weight })
        })
        .filter(|clause| clause.weight > 0)
        .collect();
    found.sort_by_key(|clause| std::cmp::Reverse(clause.weight));
    found
}

/// `0.75` as 750; what cannot be read is 1000, as if it was not there.
fn thousandths(q: &str) -> u32 {
    let (whole, fraction) = q.split_once('.').unwrap_or((q, ""));
    if whole == "1" {
        return 1000;
    }
    if whole != "0" || fraction.len() > 3 || !fraction.bytes().all(|b| b.is_ascii_digit()) {
        return 1000;
    }
    format!("{fraction:0<3}").parse().unwrap_or(1000)
}

fn meta_version(clause: &Clause<'_>) -> Option<&'static str> {
    if clause.param("g").is_some_and(|g| g != "meta.k8s.io") {
        return None;
    }
    match clause.param("v") {
        None | Some("v1") => Some("v1"),
        Some("v1beta1") => Some("v1beta1"),
        Some(_) => None,
    }
}

fn accept_is_absent(headers: &HeaderMap) -> bool {
    !headers.contains_key(header::ACCEPT)
}

/// The form of an object or a list.
pub(crate) fn form(headers: &HeaderMap) -> Result<Form, ApiError> {
    first_form(headers, true)
}

/// The form of the objects of a watch: always JSON, since YAML knows no lines.
pub(crate) fn stream(headers: &HeaderMap) -> Result<Form, ApiError> {
    first_form(headers, false)
}

fn first_form(headers: &HeaderMap, yaml: bool) -> Result<Form, ApiError> {
    let plain = Form {
        view: View::Object,
        format: Format::Json,
    };
    if accept_is_absent(headers) {
        return Ok(plain);
    }
    for clause in clauses(headers) {
        let format = match clause.media.as_str() {
            "application/json" => Format::Json,
            "application/yaml" | "text/yaml" if yaml => Format::Yaml,
            _ if clause.is_any() => Format::Json,
            _ => continue,
        };
        let view = match clause.param("as") {
            None => View::Object,
            Some("Table") => match meta_version(&clause) {
                Some(version) => View::Table(version),
                None => continue,
            },
            Some("PartialObjectMetadata" | "PartialObjectMetadataList") => match meta_version(&clause) {
                Some(version) => View::Partial(version),
                None => continue,
            },
            Some(_) => continue,
        };
        return Ok(Form { view, format });
    }
    Err(ApiError::NotAcceptable {
        accepted: if yaml {
            "application/json, application/yaml"
        } else {
            "application/json"
        },
    })
}

/// The form of a discovery document. kubectl up to 1.29 knows `v2beta1` alone and must not get `v2`.
pub(crate) fn discovery(headers: &HeaderMap) -> Result<Discovery, ApiError> {
    if accept_is_absent(headers) {
        return Ok(Discovery::Legacy);
    }
    for clause in clauses(headers) {
        if clause.media != "application/json" && !clause.is_any() {
            continue;
        }
        match (clause.param("as"), clause.param("g"), clause.param("v")) {
            (None, _, _) => return Ok(Discovery::Legacy),
            (Some("APIGroupDiscoveryList"), Some("apidiscovery.k8s.io"), Some("v2")) => {
                return Ok(Discovery::Aggregated("v2"));
            }
            (Some("APIGroupDiscoveryList"), Some("apidiscovery.k8s.io"), Some("v2beta1")) => {
                return Ok(Discovery::Aggregated("v2beta1"));
            }
            (Some(_), _, _) => {}
        }
    }
    Err(ApiError::NotAcceptable {
        accepted: "application/json",
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn accept(value: &str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(header::ACCEPT, value.parse().unwrap());
        headers
    }

    fn view(value: &str) -> View {
        form(&accept(value)).unwrap().view
    }

    #[test]
    fn what_kubectl_get_sends_is_a_table_of_the_first_version() {
        let kubectl = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json;as=Table;v=v1beta1;g=meta.k8s.io,application/json";
        assert_eq!(view(kubectl), View::Table("v1"));
        assert_eq!(
            view("application/json;as=Table;v=v1beta1;g=meta.k8s.io, application/json"),
            View::Table("v1beta1")
        );
    }

    #[test]
    fn a_form_unknown_here_falls_to_the_next_clause() {
        assert_eq!(
            view("application/json;as=Table;v=v9;g=meta.k8s.io,application/json"),
            View::Object
        );
        assert_eq!(view("application/json;as=Carpet;v=v1;g=meta.k8s.io,*/*"), View::Object);
        assert_eq!(
            view("application/vnd.kubernetes.protobuf,application/json"),
            View::Object
        );
        assert_eq!(view("application/vnd.kubernetes.protobuf, */*"), View::Object);
        assert_eq!(
            view("application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io"),
            View::Partial("v1")
        );
    }

    #[test]
    fn weights_decide_before_order() {
        assert_eq!(
            form(&accept("application/json;q=0.5, application/yaml;q=0.9"))
                .unwrap()
                .format,
            Format::Yaml
        );
        assert_eq!(
            form(&accept("application/json;q=0, application/yaml")).unwrap().format,
            Format::Yaml
        );
    }

    #[test]
    fn protobuf_alone_is_not_acceptable() {
        let error = form(&accept("application/vnd.kubernetes.protobuf")).unwrap_err();
        assert_eq!(error.status()["code"], 406);
    }

    #[test]
    fn discovery_gives_the_version_that_was_asked_for() {
        let old = "application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList,application/json";
        let new = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList,application/json";
        assert_eq!(discovery(&accept(old)).unwrap(), Discovery::Aggregated("v2beta1"));
        assert_eq!(discovery(&accept(new)).unwrap(), Discovery::Aggregated("v2"));
        assert_eq!(discovery(&accept("application/json, */*")).unwrap(), Discovery::Legacy);
        assert_eq!(discovery(&HeaderMap::new()).unwrap(), Discovery::Legacy);
    }
}
