//! Variables, what is made of them, and what they lack.

use serde_json::json;

use super::*;
use crate::model::{Data, EnvFrom, Field, ObjectKey, ObjectKind, ResourceField, ResourceValue};

fn text(name: &str, value: &str) -> EnvVar {
    variable(name, EnvValue::Text(value.to_owned()))
}

fn variable(name: &str, value: EnvValue) -> EnvVar {
    EnvVar {
        name: name.to_owned(),
        value,
    }
}

fn key(object: &str, key: &str, optional: bool) -> ObjectKey {
    ObjectKey {
        object: object.to_owned(),
        key: key.to_owned(),
        optional,
    }
}

fn from(kind: ObjectKind, object: &str, prefix: &str, optional: bool) -> EnvFrom {
    EnvFrom {
        prefix: prefix.to_owned(),
        kind,
        object: object.to_owned(),
        optional,
    }
}

fn hold(given: &mut Given, kind: ObjectKind, name: &str, data: &[(&str, &[u8])]) {
    let data = data.iter().map(|(key, bytes)| ((*key).to_owned(), bytes.to_vec()));
    let data = Data(data.collect());
    given.sources.objects.insert((kind, name.to_owned()), data);
}

/// What Kubernetes gives the container, in order.
fn variables(given: &Given) -> Result<Vec<String>, String> {
    given.check(|input| {
        let variables = Variables::of(input).map_err(|error| error.to_string())?;
        Ok(variables
            .iter()
            .map(|(name, value)| format!("{name}={value}"))
            .collect())
    })
}

#[test]
fn later_ones_win_and_each_sees_those_before_it() {
    let given = Given::with(|given| {
        given.api = Some("10.0.0.1:6443".parse().unwrap());
        hold(
            given,
            ObjectKind::ConfigMap,
            "first",
            &[("A", b"from first"), ("B", b"b"), ("S", b"config")],
        );
        hold(
            given,
            ObjectKind::Secret,
            "second",
            &[("S", b"secret"), ("KUBERNETES_PORT", b"mine")],
        );
        given.container().env_from = vec![
            from(ObjectKind::ConfigMap, "first", "", false),
            from(ObjectKind::Secret, "second", "", false),
            from(ObjectKind::ConfigMap, "first", "p-1.", true),
            from(ObjectKind::ConfigMap, "absent", "", true),
        ];
        given.container().env = vec![
            text("A", "from env"),
            text("SEES", "$(A) $(S) $(LATER) $(KUBERNETES_SERVICE_HOST) $$(A)"),
            text("LATER", "$(KUBERNETES_PORT)"),
            text("A", "$(A) twice"),
        ];
    });
    assert_eq!(
        variables(&given).unwrap(),
        [
            "KUBERNETES_SERVICE_HOST=10.0.0.1",
            "KUBERNETES_SERVICE_PORT=6443",
            "KUBERNETES_SERVICE_PORT_HTTPS=6443",
            "KUBERNETES_PORT=mine",
            "KUBERNETES_PORT_6443_TCP_PROTO=tcp",
            "KUBERNETES_PORT_6443_TCP_PORT=6443",
            "KUBERNETES_PORT_6443_TCP_ADDR=10.0.0.1",
            "KUBERNETES_PORT_6443_TCP=tcp://10.0.0.1:6443",
            "A=from env twice",
            "B=b",
            "S=secret",
            "p-1.A=from first",
            "p-1.B=b",
            "p-1.S=config",
            "SEES=from env secret $(LATER) 10.0.0.1 $(A)",
            "LATER=mine",
        ]
    );
    let given = Given::with(|given| given.api = Some("[2001:db8::1]:443".parse().unwrap()));
    let told = variables(&given).unwrap();
    assert!(
        told.contains(&"KUBERNETES_PORT=tcp://[2001:db8::1]:443".to_owned()),
        "{told:?}"
    );
    assert!(
        told.contains(&"KUBERNETES_SERVICE_HOST=2001:db8::1".to_owned()),
        "{told:?}"
    );
    assert_eq!(variables(&Given::new()).unwrap(), Vec::<String>::new());
}

#[test]
fn the_pod_is_told_of_itself() {
    let given = Given::with(|given| {
        given.pod.about.labels = BTreeMap::from([("app".to_owned(), "web".to_owned())]);
        given.container().resources.cpu_limit_milli = Some(1500);
        let resource = |name: Option<&str>, resource, divisor| {
            EnvValue::Resource(ResourceValue {
                container: name.map(str::to_owned),
                resource,
                divisor,
            })
        };
        given.container().env = vec![
            variable("NAME", EnvValue::Field(Field::Name)),
            variable("APP", EnvValue::Field(Field::Label("app".to_owned()))),
            variable("NONE", EnvValue::Field(Field::Annotation("none".to_owned()))),
            variable("NODE", EnvValue::Field(Field::NodeName)),
            variable("IP", EnvValue::Field(Field::PodIp)),
            variable("HOST", EnvValue::Field(Field::HostIp)),
            variable("CPU", resource(None, ResourceField::LimitsCpu, 1000)),
            variable("MEMORY", resource(Some("app"), ResourceField::LimitsMemory, 1 << 30)),
            text("ALL", "$(NAME) on $(NODE)"),
        ];
    });
    assert_eq!(
        variables(&given).unwrap(),
        [
            "NAME=web",
            "APP=web",
            "NONE=",
            "NODE=node",
            "IP=10.0.0.7",
            "HOST=192.0.2.1",
            "CPU=2",
            "MEMORY=8",
            "ALL=web on node",
        ]
    );
    let given = Given::with(|given| {
        let value = ResourceValue {
            container: Some("nobody".to_owned()),
            resource: ResourceField::LimitsCpu,
            divisor: 1,
        };
        given.container().env = vec![variable("X", EnvValue::Resource(value))];
    });
    assert_eq!(variables(&given).unwrap_err(), "container nobody not found");
}

#[test]
fn what_is_required_must_be_there() {
    let config = |key| EnvValue::ConfigMapKey(key);
    let secret = |key| EnvValue::SecretKey(key);
    for (value, expected) in [
        (config(key("c", "k", false)), Ok("X=v")),
        (config(key("c", "other", true)), Ok("")),
        (config(key("absent", "k", true)), Ok("")),
        (
            config(key("c", "other", false)),
            Err("couldn't find key other in ConfigMap default/c"),
        ),
        (config(key("absent", "k", false)), Err("configmap \"absent\" not found")),
        (secret(key("s", "k", false)), Ok("X=w")),
        (
            secret(key("s", "other", false)),
            Err("couldn't find key other in Secret default/s"),
        ),
        (secret(key("absent", "k", false)), Err("secret \"absent\" not found")),
        (
            secret(key("s", "bytes", false)),
            Err("key bytes in Secret default/s is no UTF-8 text"),
        ),
    ] {
        let given = Given::with(|given| {
            hold(given, ObjectKind::ConfigMap, "c", &[("k", b"v")]);
            hold(given, ObjectKind::Secret, "s", &[("k", b"w"), ("bytes", b"\xff")]);
            given.container().env = vec![variable("X", value.clone())];
        });
        let found = variables(&given);
        let found = found.as_ref().map(|list| list.first().map_or("", String::as_str));
        assert_eq!(found.map_err(String::as_str), expected, "{value:?}");
    }
    for (kind, expected) in [
        (ObjectKind::ConfigMap, "configmap \"absent\" not found"),
        (ObjectKind::Secret, "secret \"absent\" not found"),
    ] {
        let given = Given::with(|given| given.container().env_from = vec![from(kind, "absent", "", false)]);
        assert_eq!(variables(&given).unwrap_err(), expected);
        assert_eq!(given.build().unwrap_err().to_string(), expected);
    }
}

#[test]
fn bytes_of_a_config_map_are_no_variables() {
    let given = Given::with(|given| {
        hold(
            given,
            ObjectKind::ConfigMap,
            "c",
            &[("bytes", b"\xff\xfe"), ("text", "ä".as_bytes())],
        );
        given.container().env_from = vec![from(ObjectKind::ConfigMap, "c", "", false)];
    });
    assert_eq!(variables(&given).unwrap(), ["text=ä"]);
}

#[test]
fn command_and_args_are_expanded_and_those_of_the_image_are_not() {
    let given = Given::with(|given| {
        given.container().env = vec![text("A", "a b"), variable("NAME", EnvValue::Field(Field::Name))];
        given.container().command = vec!["$(A)".to_owned(), "$(NAME)".to_owned()];
        given.container().args = vec!["$(NO) $$(A)".to_owned()];
    });
    assert_eq!(given.json()["process"]["args"], json!(["a b", "web", "$(NO) $(A)"]));
    let given = Given::with(|given| {
        given.container().env = vec![text("A", "a")];
        given.image.config.cmd = vec!["$(A)".to_owned()];
    });
    assert_eq!(given.json()["process"]["args"], json!(["/bin/entry", "$(A)"]));
    let given = Given::with(|given| {
        given.container().env = vec![text("A", &"y".repeat(100_000))];
        given.container().command = vec!["$(A)$(A)".to_owned()];
    });
    assert_eq!(given.build().unwrap_err(), SpecError::TooLong);
}

#[test]
fn a_part_of_a_volume_may_be_named_by_variables() {
    let with = |expression: &str, value: &str| {
        Given::with(|given| {
            given.container().env = vec![text("V", value)];
            let mut mounted = mount("data", "/srv", None, false);
            mounted.sub_path_expr = Some(expression.to_owned());
            given.container().mounts = vec![mounted];
        })
    };
    for (expression, value, expected) in [
        ("$(V)/logs", "web", "web/logs"),
        ("./a//$(V)/", "b", "a/b"),
        // In the name of a directory it is a letter like others.
        ("$(V)", "`ls`", "`ls`"),
        ("$(V)", "..a", "..a"),
    ] {
        let parts = with(expression, value).build().unwrap().sub_paths;
        assert_eq!(parts.len(), 1);
        assert_eq!(parts[0].path, Path::new(expected), "{expression}");
    }
    for (expression, value, expected) in [
        ("$(V)", "/tmp", "error SubPath `/tmp` must not be an absolute path"),
        ("$(V)", "..", "unable to provision SubPath `..`: must not contain '..'"),
        (
            "a/$(V)",
            "../../etc",
            "unable to provision SubPath `a/../../etc`: must not contain '..'",
        ),
        ("$(V)", "", "missing value for V"),
        ("$(NO)/x", "v", "missing value for NO"),
    ] {
        let error = with(expression, value).build().unwrap_err();
        assert_eq!(error.to_string(), expected, "{expression}");
    }
}
