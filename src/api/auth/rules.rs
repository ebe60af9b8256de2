//! Who may do what: the rules, and the one function that decides by them.
//!
//! Goes in: an [`Identity`] and [`Attributes`]. Comes out: a [`Decision`]. Pure; no rule takes anything away, and what no
//! rule allows is refused. Service accounts may in their own namespace what viewers may in all of them ([`IN_NAMESPACE`]).
//!
//! Every resource and path that podd serves is named here: in what viewers read, in what everyone may, or in what only
//! masters may ([`MASTERS_ONLY`], which decides nothing). A test walks the API's document and fails on one that is not.

use super::attributes::{Attributes, Target};
use super::identity::{AUTHENTICATED, Identity, MASTERS, SERVICE_ACCOUNTS, UNAUTHENTICATED, VIEWERS};

/// Verbs on resources, or on paths. `*` means any; at the end of a path it means whatever begins so.
#[derive(Debug)]
pub(crate) struct Rule {
    pub(crate) verbs: &'static [&'static str],
    pub(crate) groups: &'static [&'static str],
    /// `pods`, `pods/log`.
    pub(crate) resources: &'static [&'static str],
    pub(crate) paths: &'static [&'static str],
}

impl Rule {
    const fn resources(
        verbs: &'static [&'static str],
        groups: &'static [&'static str],
        resources: &'static [&'static str],
    ) -> Self {
        Self {
            verbs,
            groups,
            resources,
            paths: &[],
        }
    }

    const fn paths(verbs: &'static [&'static str], paths: &'static [&'static str]) -> Self {
        Self {
            verbs,
            groups: &[],
            resources: &[],
            paths,
        }
    }

    fn names(&self, target: &Target) -> bool {
        let any = |list: &[&str], value: &str| list.iter().any(|one| *one == "*" || *one == value);
        match target {
            Target::Resource(resource) => {
                any(self.groups, &resource.group) && any(self.resources, &resource.combined())
            }
            Target::Path(path) => self.paths.iter().any(|rule| match rule.strip_suffix('*') {
                Some(beginning) => path.starts_with(beginning),
                None => path == rule,
            }),
        }
    }

    fn allows(&self, asked: &Attributes) -> bool {
        self.verbs.iter().any(|verb| *verb == "*" || *verb == asked.verb) && self.names(&asked.target)
    }
}

const READ: &[&str] = &["get", "list", "watch"];

/// What tells nothing of anyone (Kubernetes' `system:public-info-viewer`).
static PUBLIC: Rule = Rule::paths(&["get"], &["/healthz", "/livez", "/readyz", "/version", "/version/"]);

/// What is in namespaces and not secret: viewers may read it in all of them, service accounts in their own.
const IN_NAMESPACE: &[Rule] = &[
    Rule::resources(
        READ,
        &[""],
        &[
            "configmaps",
            "endpoints",
            "events",
            "namespaces",
            "namespaces/status",
            "pods",
            "pods/log",
            "pods/status",
            "podtemplates",
            "replicationcontrollers",
            "replicationcontrollers/scale",
            "replicationcontrollers/status",
            "serviceaccounts",
            "services",
            "services/status",
        ],
    ),
    Rule::resources(
        READ,
        &["apps"],
        &[
            "controllerrevisions",
            "daemonsets",
            "daemonsets/status",
            "deployments",
            "deployments/scale",
            "deployments/status",
            "replicasets",
            "replicasets/scale",
            "replicasets/status",
            "statefulsets",
            "statefulsets/scale",
            "statefulsets/status",
        ],
    ),
    Rule::resources(
        READ,
        &["batch"],
        &["cronjobs", "cronjobs/status", "jobs", "jobs/status"],
    ),
    Rule::resources(READ, &["coordination.k8s.io"], &["leases"]),
    Rule::resources(READ, &["discovery.k8s.io"], &["endpointslices"]),
    Rule::resources(READ, &["events.k8s.io"], &["events"]),
    Rule::resources(READ, &["metrics.k8s.io"], &["pods"]),
];

/// The groups that are given something, and what.
static ROLES: &[(&str, &[Rule])] = &[
    (
        MASTERS,
        &[Rule::resources(&["*"], &["*"], &["*"]), Rule::paths(&["*"], &["*"])],
    ),
    (VIEWERS, IN_NAMESPACE),
    (
        VIEWERS,
        &[
            Rule::resources(READ, &[""], &["nodes", "nodes/status"]),
            Rule::resources(READ, &["metrics.k8s.io"], &["nodes"]),
            Rule::resources(READ, &["node.k8s.io"], &["runtimeclasses"]),
            Rule::paths(&["get"], &["/metrics", "/podd/v1/images"]),
        ],
    ),
    (
        AUTHENTICATED,
        &[
            // `system:basic-user`
            Rule::resources(
                &["create"],
                &["authorization.k8s.io"],
                &["selfsubjectaccessreviews", "selfsubjectrulesreviews"],
            ),
            Rule::resources(&["create"], &["authentication.k8s.io"], &["selfsubjectreviews"]),
            // `system:discovery`, and podd's own document
            Rule::paths(
                &["get"],
                &[
                    "/api",
                    "/api/*",
                    "/apis",
                    "/apis/*",
                    "/healthz",
                    "/livez",
                    "/openapi",
                    "/openapi.json",
                    "/openapi/*",
                    "/readyz",
                    "/version",
                    "/version/",
                ],
            ),
        ],
    ),
    (
        SERVICE_ACCOUNTS,
        // `system:service-account-issuer-discovery`
        &[Rule::paths(
            &["get"],
            &[
                "/.well-known/openid-configuration",
                "/.well-known/openid-configuration/",
                "/openid/v1/jwks",
                "/openid/v1/jwks/",
            ],
        )],
    ),
    (
        UNAUTHENTICATED,
        &[Rule::paths(
            &["get"],
            &["/healthz", "/livez", "/readyz", "/version", "/version/"],
        )],
    ),
];

/// What is served and nobody but masters may touch. This allows nothing: it says that somebody thought of it.
#[cfg(test)]
static MASTERS_ONLY: &[Rule] = &[
    Rule::resources(
        &["*"],
        &[""],
        &[
            "bindings",
            "namespaces/finalize",
            "nodes/proxy",
            "pods/attach",
            "pods/binding",
            "pods/ephemeralcontainers",
            "pods/eviction",
            "pods/exec",
            "pods/portforward",
            "pods/proxy",
            "pods/resize",
            "secrets",
            "serviceaccounts/token",
            "services/proxy",
        ],
    ),
    Rule::resources(&["*"], &["authentication.k8s.io"], &["tokenreviews"]),
    Rule::paths(&["*"], &["/podd/v1/images/*"]),
];

/// What becomes of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Decision {
    Allowed { reason: String },
    Denied,
}

impl Decision {
    pub(crate) fn is_allowed(&self) -> bool {
        matches!(self, Self::Allowed { .. })
    }
}

/// May this identity do this?
pub(crate) fn authorize(identity: &Identity, asked: &Attributes) -> Decision {
    let allows = |rules: &[Rule]| rules.iter().any(|rule| rule.allows(asked));
    let reason = |group: &str| format!("allowed to group \"{group}\"");
    if let Some((group, _)) = roles_of(identity).find(|(_, rules)| allows(rules)) {
        return Decision::Allowed { reason: reason(group) };
    }
    let namespace = match &asked.target {
        Target::Resource(resource) => resource.namespace.as_str(),
        Target::Path(_) => "",
    };
    match group_in(identity, namespace) {
        Some(group) if allows(IN_NAMESPACE) => Decision::Allowed { reason: reason(group) },
        Some(_) | None => Decision::Denied,
    }
}

/// Everything that this identity may do in a namespace.
pub(crate) fn rules_of(identity: &Identity, namespace: &str) -> impl Iterator<Item = &'static Rule> {
    let own = group_in(identity, namespace).map_or(&[][..], |_| IN_NAMESPACE);
    roles_of(identity).flat_map(|(_, rules)| rules.iter()).chain(own)
}

/// The group of the service accounts of this namespace, if the identity is in it. What is in no namespace is in nobody's.
fn group_in<'a>(identity: &'a Identity, namespace: &str) -> Option<&'a str> {
    let group = identity.groups.iter().find(|group| {
        let own = group
            .strip_prefix(SERVICE_ACCOUNTS)
            .and_then(|rest| rest.strip_prefix(':'));
        own.is_some_and(|own| !own.is_empty() && own == namespace)
    });
    group.map(String::as_str)
}

fn roles_of(identity: &Identity) -> impl Iterator<Item = &'static (&'static str, &'static [Rule])> {
    ROLES.iter().filter(|(group, _)| identity.is_in(group))
}

/// Whether anyone may have this without saying who they are: what needs no credentials must not fail for bad ones.
pub(crate) fn is_public(path: &str) -> bool {
    PUBLIC.names(&Target::Path(path.to_owned()))
}

/// Whether a rule names this, beside the one that allows masters everything.
#[cfg(test)]
pub(crate) fn is_named(target: &Target) -> bool {
    let named = ROLES.iter().filter(|(group, _)| *group != MASTERS);
    named
        .flat_map(|(_, rules)| rules.iter())
        .chain(MASTERS_ONLY)
        .any(|rule| rule.names(target))
}

/// Why a request is refused, as Kubernetes words it (`responsewriters.Forbidden`).
pub(crate) fn refusal(identity: &Identity, asked: &Attributes) -> String {
    let (user, verb) = (&identity.user, &asked.verb);
    match &asked.target {
        Target::Path(path) => format!("forbidden: User {user:?} cannot {verb} path {path:?}"),
        Target::Resource(resource) => {
            let place = if resource.namespace.is_empty() {
                "at the cluster scope".to_owned()
            } else {
                format!("in the namespace {:?}", resource.namespace)
            };
            let subject = match (resource.group.as_str(), resource.name.as_str()) {
                ("", "") => resource.plural.clone(),
                ("", name) => format!("{} {name:?}", resource.plural),
                (group, "") => format!("{}.{group}", resource.plural),
                (group, name) => format!("{}.{group} {name:?}", resource.plural),
            };
            format!(
                "{subject} is forbidden: User {user:?} cannot {verb} resource {:?} in API group {:?} {place}",
                resource.combined(),
                resource.group
            )
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::auth::attributes::Resource;

    fn asked(verb: &str, group: &str, plural: &str, subresource: &str) -> Attributes {
        Attributes {
            verb: verb.to_owned(),
            target: Target::Resource(Resource {
                group: group.to_owned(),
                plural: plural.to_owned(),
                subresource: subresource.to_owned(),
                namespace: "default".to_owned(),
                ..Resource::default()
            }),
        }
    }

    fn of(groups: &[&str]) -> Identity {
        Identity {
            user: "jane".to_owned(),
            groups: groups.iter().map(|g| (*g).to_owned()).collect(),
            ..Identity::default()
        }
    }

    const VERBS: [&str; 10] = [
        "get",
        "list",
        "watch",
        "create",
        "update",
        "patch",
        "delete",
        "deletecollection",
        "impersonate",
        "",
    ];

    #[test]
    fn viewers_only_read_and_nothing_that_is_for_masters() {
        let viewer = of(&[VIEWERS]);
        for rule in rules_of(&viewer, "default") {
            assert!(rule.verbs.iter().all(|verb| READ.contains(verb)), "{rule:?}");
            assert!(
                !rule.groups.contains(&"*") && !rule.resources.contains(&"*"),
                "{rule:?}"
            );
            assert!(!rule.paths.iter().any(|path| path.ends_with('*')), "{rule:?}");
        }
        for closed in MASTERS_ONLY.iter().flat_map(|rule| rule.resources) {
            let (plural, subresource) = closed.split_once('/').unwrap_or((closed, ""));
            for verb in VERBS {
                assert_eq!(
                    authorize(&viewer, &asked(verb, "", plural, subresource)),
                    Decision::Denied,
                    "{verb} {closed}"
                );
            }
        }
    }

    #[test]
    fn only_the_whole_name_of_a_group_counts() {
        for groups in [
            &["system:master"][..],
            &["system:masters2"],
            &["SYSTEM:MASTERS"],
            &["*"],
            &[""],
            &[],
        ] {
            for verb in VERBS {
                assert_eq!(
                    authorize(&of(groups), &asked(verb, "", "pods", "")),
                    Decision::Denied,
                    "{groups:?}"
                );
            }
        }
    }

    #[test]
    fn a_resource_of_that_name_in_another_group_is_another_one() {
        let viewer = of(&[VIEWERS]);
        assert!(authorize(&viewer, &asked("get", "", "configmaps", "")).is_allowed());
        for other in [
            asked("get", "example.com", "configmaps", ""),
            asked("get", "apps", "pods", ""),
            asked("get", "", "deployments", ""),
            asked("get", "", "configmaps", "exec"),
        ] {
            assert_eq!(authorize(&viewer, &other), Decision::Denied, "{other:?}");
        }
    }

    #[test]
    fn several_groups_may_what_each_of_them_may() {
        let both = of(&[VIEWERS, AUTHENTICATED]);
        assert!(authorize(&both, &asked("list", "", "pods", "")).is_allowed());
        let question = asked("create", "authentication.k8s.io", "selfsubjectreviews", "");
        assert_eq!(
            authorize(&both, &question),
            Decision::Allowed {
                reason: "allowed to group \"system:authenticated\"".to_owned()
            }
        );
    }

    #[test]
    fn a_service_account_reads_its_own_namespace_and_no_other() {
        let account = of(&[SERVICE_ACCOUNTS, "system:serviceaccounts:ours"]);
        let viewer = of(&[VIEWERS]);
        let names: std::collections::BTreeSet<&str> = ROLES
            .iter()
            .flat_map(|(_, rules)| rules.iter())
            .chain(MASTERS_ONLY)
            .flat_map(|rule| rule.resources)
            .copied()
            .collect();
        for name in names {
            let (plural, subresource) = name.split_once('/').unwrap_or((name, ""));
            for group in [
                "",
                "apps",
                "batch",
                "coordination.k8s.io",
                "events.k8s.io",
                "node.k8s.io",
            ] {
                for verb in VERBS {
                    for namespace in ["ours", "theirs", "ours:", ":ours", "", "system:serviceaccounts:ours"] {
                        let mut asked = asked(verb, group, plural, subresource);
                        if let Target::Resource(resource) = &mut asked.target {
                            namespace.clone_into(&mut resource.namespace);
                        }
                        let allowed = authorize(&account, &asked).is_allowed();
                        assert!(!allowed || authorize(&viewer, &asked).is_allowed(), "{asked:?}");
                        assert!(!allowed || namespace == "ours", "{asked:?}");
                    }
                }
            }
        }
        for (group, name) in [
            ("", "pods"),
            ("", "pods/log"),
            ("", "configmaps"),
            ("", "events"),
            ("", "serviceaccounts"),
            ("events.k8s.io", "events"),
            ("apps", "deployments"),
        ] {
            let (plural, subresource) = name.split_once('/').unwrap_or((name, ""));
            for verb in READ {
                let mut asked = asked(verb, group, plural, subresource);
                assert!(!authorize(&account, &asked).is_allowed(), "it is in default: {asked:?}");
                if let Target::Resource(resource) = &mut asked.target {
                    "ours".clone_into(&mut resource.namespace);
                }
                assert!(authorize(&account, &asked).is_allowed(), "{asked:?}");
            }
        }
    }

    #[test]
    fn only_the_group_of_the_namespace_counts() {
        for groups in [
            &[SERVICE_ACCOUNTS][..],
            &["system:serviceaccounts:"],
            &["system:serviceaccountsdefault"],
            &["system:serviceaccounts:other"],
        ] {
            assert_eq!(authorize(&of(groups), &asked("get", "", "pods", "")), Decision::Denied);
        }
        let own = of(&["system:serviceaccounts:default"]);
        assert_eq!(
            authorize(&own, &asked("get", "", "pods", "")),
            Decision::Allowed {
                reason: "allowed to group \"system:serviceaccounts:default\"".to_owned()
            }
        );
    }
}
