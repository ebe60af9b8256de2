//! The manifests this project was asked to bring to life, as they stand.

use k8s_openapi::api::core::v1::Pod;

use super::context;
use crate::admit::{Admitted, DecodeError, Decoded, Encoding, Fault, FieldValidation, decode, to_model};
use crate::model::{HostPort, Protocol, RestartPolicy, VolumeSource};

fn read(text: &str, validation: FieldValidation) -> Result<Decoded<Pod>, DecodeError> {
    decode(text.as_bytes(), Encoding::Yaml, validation)
}

fn admit(text: &str, validation: FieldValidation) -> Result<Admitted, Vec<Fault>> {
    crate::admit::pod(read(text, validation).expect("decoded").object, &context())
}

fn lines(faults: &[Fault]) -> Vec<String> {
    faults.iter().map(ToString::to_string).collect()
}

const TWO_CONTAINERS: &str = include_str!("../../../tests/fixtures/manifests/two-containers.yaml");
const JAVAWEB: &str = include_str!("../../../tests/fixtures/manifests/javaweb-2.yaml");
const JAVAWEB_TYPOS: &str = include_str!("../../../tests/fixtures/manifests/javaweb-2-typos.yaml");
const NGINX_GIT: &str = include_str!("../../../tests/fixtures/manifests/nginx-git.yaml");
const NGINX_GIT_TYPO: &str = include_str!("../../../tests/fixtures/manifests/nginx-git-typo.yaml");

#[test]
fn two_containers() {
    let admitted = admit(TWO_CONTAINERS, FieldValidation::Strict).expect("admitted");
    assert_eq!(admitted.warnings, Vec::<String>::new());
    let model = to_model(&admitted.pod).expect("understood");
    assert_eq!(model.restart_policy, RestartPolicy::Never);
    assert_eq!(model.containers.len(), 2);
    assert!(matches!(model.volumes[0].source, VolumeSource::HostPath { .. }));
    assert_eq!(model.containers[1].command, ["/bin/sh"]);
}

#[test]
fn javaweb_2() {
    let admitted = admit(JAVAWEB, FieldValidation::Strict).expect("admitted");
    let model = to_model(&admitted.pod).expect("understood");
    let port = HostPort {
        host_ip: None,
        host_port: 8001,
        container_port: 8080,
        protocol: Protocol::Tcp,
    };
    assert_eq!(model.containers[0].host_ports, [port]);
}

#[test]
fn javaweb_2_typos() {
    let strict = read(JAVAWEB_TYPOS, FieldValidation::Strict)
        .expect_err("refused")
        .to_string();
    assert_eq!(
        strict,
        "Pod in version \"v1\" cannot be handled as a Pod: strict decoding error: unknown field \
         \"spec.containers[0].cammand\", did you mean \"command\"?, unknown field \
         \"spec.initContainers[0].conmmand\", did you mean \"command\"?; note: \
         spec.containers[0].volumeMounts[0].mountPath: \"/root/apache-*/webapps\" is taken as it stands: podd does \
         not expand wildcards in a mountPath"
    );
    let warned = read(JAVAWEB_TYPOS, FieldValidation::Warn).expect("decoded").warnings;
    assert_eq!(
        warned,
        [
            "unknown field \"spec.containers[0].cammand\", did you mean \"command\"?",
            "unknown field \"spec.initContainers[0].conmmand\", did you mean \"command\"?",
        ]
    );
}

#[test]
fn nginx_git_is_a_deployment() {
    assert_eq!(
        read(NGINX_GIT, FieldValidation::Strict)
            .expect_err("refused")
            .to_string(),
        "Deployment in version \"v1beta1\" cannot be handled as a Pod: the API version in the data (apps/v1beta1) \
         does not match the expected API version (v1)"
    );
}

#[test]
fn nginx_git_typo() {
    assert_eq!(
        read(NGINX_GIT_TYPO, FieldValidation::Strict)
            .expect_err("refused")
            .to_string(),
        "Pod in version \"v1\" cannot be handled as a Pod: strict decoding error: unknown field \
         \"spec.volumes[0].hostPth\", did you mean \"hostPath\"?"
    );
    // Where unknown fields are let through, the volume is left without a source.
    assert_eq!(
        lines(&admit(NGINX_GIT_TYPO, FieldValidation::Ignore).expect_err("refused")),
        ["spec.volumes[0]: Required value: must specify a volume type"]
    );
}
