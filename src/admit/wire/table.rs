//! Made by `deploy/wire-types.py` out of upstream's `generated.proto` files and `OpenAPI` schemas: do not edit.

use super::{Kind, Message, many, map, one};

/// The kinds that are sent whole: apiVersion, kind, message.
pub(super) static ROOTS: &[(&str, &str, &Message)] = &[
    ("v1", "Pod", &CORE_V1_POD),
    ("v1", "PodTemplate", &CORE_V1_POD_TEMPLATE),
    ("v1", "ConfigMap", &CORE_V1_CONFIG_MAP),
    ("v1", "Secret", &CORE_V1_SECRET),
    ("v1", "Namespace", &CORE_V1_NAMESPACE),
    ("v1", "ServiceAccount", &CORE_V1_SERVICE_ACCOUNT),
    ("v1", "Service", &CORE_V1_SERVICE),
    ("v1", "Endpoints", &CORE_V1_ENDPOINTS),
    ("v1", "Node", &CORE_V1_NODE),
    ("v1", "Event", &CORE_V1_EVENT),
    ("v1", "Binding", &CORE_V1_BINDING),
    ("v1", "ReplicationController", &CORE_V1_REPLICATION_CONTROLLER),
    ("discovery.k8s.io/v1", "EndpointSlice", &DISCOVERY_V1_ENDPOINT_SLICE),
    ("events.k8s.io/v1", "Event", &EVENTS_V1_EVENT),
    ("policy/v1", "Eviction", &POLICY_V1_EVICTION),
    ("coordination.k8s.io/v1", "Lease", &COORDINATION_V1_LEASE),
    ("node.k8s.io/v1", "RuntimeClass", &NODE_V1_RUNTIME_CLASS),
    (
        "authorization.k8s.io/v1",
        "SelfSubjectAccessReview",
        &AUTHORIZATION_V1_SELF_SUBJECT_ACCESS_REVIEW,
    ),
    (
        "authorization.k8s.io/v1",
        "SelfSubjectRulesReview",
        &AUTHORIZATION_V1_SELF_SUBJECT_RULES_REVIEW,
    ),
    (
        "authorization.k8s.io/v1",
        "SubjectAccessReview",
        &AUTHORIZATION_V1_SUBJECT_ACCESS_REVIEW,
    ),
    (
        "authentication.k8s.io/v1",
        "SelfSubjectReview",
        &AUTHENTICATION_V1_SELF_SUBJECT_REVIEW,
    ),
    (
        "authentication.k8s.io/v1",
        "TokenRequest",
        &AUTHENTICATION_V1_TOKEN_REQUEST,
    ),
    (
        "authentication.k8s.io/v1",
        "TokenReview",
        &AUTHENTICATION_V1_TOKEN_REVIEW,
    ),
    ("apps/v1", "Deployment", &APPS_V1_DEPLOYMENT),
    ("apps/v1", "ReplicaSet", &APPS_V1_REPLICA_SET),
    ("apps/v1", "StatefulSet", &APPS_V1_STATEFUL_SET),
    ("apps/v1", "DaemonSet", &APPS_V1_DAEMON_SET),
    ("autoscaling/v1", "Scale", &AUTOSCALING_V1_SCALE),
    ("batch/v1", "Job", &BATCH_V1_JOB),
    ("v1", "DeleteOptions", &META_V1_DELETE_OPTIONS),
];

static APPS_V1_DAEMON_SET: Message = Message {
    name: "apps.v1.DaemonSet",
    fields: &[
        one(1, "metadata", Kind::Message(&META_V1_OBJECT_META)),
        one(2, "spec", Kind::Message(&APPS_V1_DAEMON_SET_SPEC)),
        one(3, "status", Kind::Message(&APPS_V1_DAEMON_SET_STATUS)),
    ],
};

static APPS_V1_DAEMON_SET_CONDITION: Message = Message {
    name: "apps.v1.DaemonSetCondition",
    fields: &[
        one(1, "type", Kind::Text),
        one(2, "status", Kind::Text),
        one(3, "lastTransitionTime", Kind::Time),
        one(4, "reason", Kind::Text),
        one(5, "message", Kind::Text),
    ],
};

static APPS_V1_DAEMON_SET_SPEC: Message = Message {
    name: "apps.v1.DaemonSetSpec",
    fields: &[
        one(1, "selector", Kind::Message(&META_V1_LABEL_SELECTOR)),
        one(2, "template", Kind::Message(&CORE_V1_POD_TEMPLATE_SPEC)),
        one(3, "updateStrategy", Kind::Message(&APPS_V1_DAEMON_SET_UPDATE_STRATEGY)),
        one(4, "minReadySeconds", Kind::Integer).plain(),
        one(6, "revisionHistoryLimit", Kind::Integer),
    ],
};

static APPS_V1_DAEMON_SET_STATUS: Message = Message {
    name: "apps.v1.DaemonSetStatus",
    fields: &[
        one(1, "currentNumberScheduled", Kind::Integer),
        one(2, "numberMisscheduled", Kind::Integer),
        one(3, "desiredNumberScheduled", Kind::Integer),
        one(4, "numberReady", Kind::Integer),
        one(5, "observedGeneration", Kind::Integer),
        one(6, "updatedNumberScheduled", Kind::Integer),
        one(7, "numberAvailable", Kind::Integer),
        one(8, "numberUnavailable", Kind::Integer),
        one(9, "collisionCount", Kind::Integer),
        many(10, "conditions", Kind::Message(&APPS_V1_DAEMON_SET_CONDITION)).merged("type"),
    ],
};

static APPS_V1_DAEMON_SET_UPDATE_STRATEGY: Message = Message {
    name: "apps.v1.DaemonSetUpdateStrategy",
    fields: &[
        one(1, "type", Kind::Text),
        one(2, "rollingUpdate", Kind::Message(&APPS_V1_ROLLING_UPDATE_DAEMON_SET)),
    ],
};

static APPS_V1_DEPLOYMENT: Message = Message {
    name: "apps.v1.Deployment",
    fields: &[
        one(1, "metadata", Kind::Message(&META_V1_OBJECT_META)),
        one(2, "spec", Kind::Message(&APPS_V1_DEPLOYMENT_SPEC)),
        one(3, "status", Kind::Message(&APPS_V1_DEPLOYMENT_STATUS)),
    ],
};

static APPS_V1_DEPLOYMENT_CONDITION: Message = Message {
    name: "apps.v1.DeploymentCondition",
    fields: &[
        one(1, "type", Kind::Text),
        one(2, "status", Kind::Text),
        one(4, "reason", Kind::Text),
        one(5, "message", Kind::Text),
        one(6, "lastUpdateTime", Kind::Time),
        one(7, "lastTransitionTime", Kind::Time),
    ],
};

static APPS_V1_DEPLOYMENT_SPEC: Message = Message {
    name: "apps.v1.DeploymentSpec",
    fields: &[
        one(1, "replicas", Kind::Integer),
        one(2, "selector", Kind::Message(&META_V1_LABEL_SELECTOR)),
        one(3, "template", Kind::Message(&CORE_V1_POD_TEMPLATE_SPEC)),
        one(4, "strategy", Kind::Message(&APPS_V1_DEPLOYMENT_STRATEGY)),
        one(5, "minReadySeconds", Kind::Integer).plain(),
        one(6, "revisionHistoryLimit", Kind::Integer),
        one(7, "paused", Kind::Boolean).plain(),
        one(9, "progressDeadlineSeconds", Kind::Integer),
    ],
};

static APPS_V1_DEPLOYMENT_STATUS: Message = Message {
    name: "apps.v1.DeploymentStatus",
    fields: &[
        one(1, "observedGeneration", Kind::Integer),
        one(2, "replicas", Kind::Integer),
        one(3, "updatedReplicas", Kind::Integer),
        one(4, "availableReplicas", Kind::Integer),
        one(5, "unavailableReplicas", Kind::Integer),
        many(6, "conditions", Kind::Message(&APPS_V1_DEPLOYMENT_CONDITION)).merged("type"),
        one(7, "readyReplicas", Kind::Integer),
        one(8, "collisionCount", Kind::Integer),
        one(9, "terminatingReplicas", Kind::Integer),
    ],
};

static APPS_V1_DEPLOYMENT_STRATEGY: Message = Message {
    name: "apps.v1.DeploymentStrategy",
    fields: &[
        one(1, "type", Kind::Text),
        one(2, "rollingUpdate", Kind::Message(&APPS_V1_ROLLING_UPDATE_DEPLOYMENT)),
    ],
};

static APPS_V1_REPLICA_SET: Message = Message {
    name: "apps.v1.ReplicaSet",
    fields: &[
        one(1, "metadata", Kind::Message(&META_V1_OBJECT_META)),
        one(2, "spec", Kind::Message(&APPS_V1_REPLICA_SET_SPEC)),
        one(3, "status", Kind::Message(&APPS_V1_REPLICA_SET_STATUS)),
    ],
};

static APPS_V1_REPLICA_SET_CONDITION: Message = Message {
    name: "apps.v1.ReplicaSetCondition",
    fields: &[
        one(1, "type", Kind::Text),
        one(2, "status", Kind::Text),
        one(3, "lastTransitionTime", Kind::Time),
        one(4, "reason", Kind::Text),
        one(5, "message", Kind::Text),
    ],
};

static APPS_V1_REPLICA_SET_SPEC: Message = Message {
    name: "apps.v1.ReplicaSetSpec",
    fields: &[
        one(1, "replicas", Kind::Integer),
        one(2, "selector", Kind::Message(&META_V1_LABEL_SELECTOR)),
        one(3, "template", Kind::Message(&CORE_V1_POD_TEMPLATE_SPEC)),
        one(4, "minReadySeconds", Kind::Integer).plain(),
    ],
};

static APPS_V1_REPLICA_SET_STATUS: Message = Message {
    name: "apps.v1.ReplicaSetStatus",
    fields: &[
        one(1, "replicas", Kind::Integer),
        one(2, "fullyLabeledReplicas", Kind::Integer),
        one(3, "observedGeneration", Kind::Integer),
        one(4, "readyReplicas", Kind::Integer),
        one(5, "availableReplicas", Kind::Integer),
        many(6, "conditions", Kind::Message(&APPS_V1_REPLICA_SET_CONDITION)).merged("type"),
        one(7, "terminatingReplicas", Kind::Integer),
    ],
};

static APPS_V1_ROLLING_UPDATE_DAEMON_SET: Message = Message {
    name: "apps.v1.RollingUpdateDaemonSet",
    fields: &[
        one(1, "maxUnavailable", Kind::IntOrText),
        one(2, "maxSurge", Kind::IntOrText),
    ],
};

static APPS_V1_ROLLING_UPDATE_DEPLOYMENT: Message = Message {
    name: "apps.v1.RollingUpdateDeployment",
    fields: &[
        one(1, "maxUnavailable", Kind::IntOrText),
        one(2, "maxSurge", Kind::IntOrText),
    ],
};

static APPS_V1_ROLLING_UPDATE_STATEFUL_SET_STRATEGY: Message = Message {
    name: "apps.v1.RollingUpdateStatefulSetStrategy",
    fields: &[
        one(1, "partition", Kind::Integer),
        one(2, "maxUnavailable", Kind::IntOrText),
    ],
};

static APPS_V1_STATEFUL_SET: Message = Message {
    name: "apps.v1.StatefulSet",
    fields: &[
        one(1, "metadata", Kind::Message(&META_V1_OBJECT_META)),
        one(2, "spec", Kind::Message(&APPS_V1_STATEFUL_SET_SPEC)),
        one(3, "status", Kind::Message(&APPS_V1_STATEFUL_SET_STATUS)),
    ],
};

static APPS_V1_STATEFUL_SET_CONDITION: Message = Message {
    name: "apps.v1.StatefulSetCondition",
    fields: &[
        one(1, "type", Kind::Text),
        one(2, "status", Kind::Text),
        one(3, "lastTransitionTime", Kind::Time),
        one(4, "reason", Kind::Text),
        one(5, "message", Kind::Text),
    ],
};

static APPS_V1_STATEFUL_SET_ORDINALS: Message = Message {
    name: "apps.v1.StatefulSetOrdinals",
    fields: &[one(1, "start", Kind::Integer).plain()],
};

static APPS_V1_STATEFUL_SET_PERSISTENT_VOLUME_CLAIM_RETENTION_POLICY: Message = Message {
    name: "apps.v1.StatefulSetPersistentVolumeClaimRetentionPolicy",
    fields: &[one(1, "whenDeleted", Kind::Text), one(2, "whenScaled", Kind::Text)],
};

static APPS_V1_STATEFUL_SET_SPEC: Message = Message {
    name: "apps.v1.StatefulSetSpec",
    fields: &[
        one(1, "replicas", Kind::Integer),
        one(2, "selector", Kind::Message(&META_V1_LABEL_SELECTOR)),
        one(3, "template", Kind::Message(&CORE_V1_POD_TEMPLATE_SPEC)),
        many(
            4,
            "volumeClaimTemplates",
            Kind::Message(&CORE_V1_PERSISTENT_VOLUME_CLAIM),
        ),
        one(5, "serviceName", Kind::Text),
        one(6, "podManagementPolicy", Kind::Text),
        one(
            7,
            "updateStrategy",
            Kind::Message(&APPS_V1_STATEFUL_SET_UPDATE_STRATEGY),
        ),
        one(8, "revisionHistoryLimit", Kind::Integer),
        one(9, "minReadySeconds", Kind::Integer).plain(),
        one(
            10,
            "persistentVolumeClaimRetentionPolicy",
            Kind::Message(&APPS_V1_STATEFUL_SET_PERSISTENT_VOLUME_CLAIM_RETENTION_POLICY),
        ),
        one(11, "ordinals", Kind::Message(&APPS_V1_STATEFUL_SET_ORDINALS)),
    ],
};

static APPS_V1_STATEFUL_SET_STATUS: Message = Message {
    name: "apps.v1.StatefulSetStatus",
    fields: &[
        one(1, "observedGeneration", Kind::Integer),
        one(2, "replicas", Kind::Integer),
        one(3, "readyReplicas", Kind::Integer),
        one(4, "currentReplicas", Kind::Integer),
        one(5, "updatedReplicas", Kind::Integer),
        one(6, "currentRevision", Kind::Text),
        one(7, "updateRevision", Kind::Text),
        one(9, "collisionCount", Kind::Integer),
        many(10, "conditions", Kind::Message(&APPS_V1_STATEFUL_SET_CONDITION)).merged("type"),
        one(11, "availableReplicas", Kind::Integer),
    ],
};

static APPS_V1_STATEFUL_SET_UPDATE_STRATEGY: Message = Message {
    name: "apps.v1.StatefulSetUpdateStrategy",
    fields: &[
        one(1, "type", Kind::Text),
        one(
            2,
            "rollingUpdate",
            Kind::Message(&APPS_V1_ROLLING_UPDATE_STATEFUL_SET_STRATEGY),
        ),
    ],
};

static AUTHENTICATION_V1_BOUND_OBJECT_REFERENCE: Message = Message {
    name: "authentication.v1.BoundObjectReference",
    fields: &[
        one(1, "kind", Kind::Text),
        one(2, "apiVersion", Kind::Text),
        one(3, "name", Kind::Text),
        one(4, "uid", Kind::Text),
    ],
};

static AUTHENTICATION_V1_SELF_SUBJECT_REVIEW: Message = Message {
    name: "authentication.v1.SelfSubjectReview",
    fields: &[
        one(1, "metadata", Kind::Message(&META_V1_OBJECT_META)),
        one(
            2,
            "status",
            Kind::Message(&AUTHENTICATION_V1_SELF_SUBJECT_REVIEW_STATUS),
        ),
    ],
};

static AUTHENTICATION_V1_SELF_SUBJECT_REVIEW_STATUS: Message = Message {
    name: "authentication.v1.SelfSubjectReviewStatus",
    fields: &[one(1, "userInfo", Kind::Message(&AUTHENTICATION_V1_USER_INFO))],
};

static AUTHENTICATION_V1_TOKEN_REQUEST: Message = Message {
    name: "authentication.v1.TokenRequest",
    fields: &[
        one(1, "metadata", Kind::Message(&META_V1_OBJECT_META)),
        one(2, "spec", Kind::Message(&AUTHENTICATION_V1_TOKEN_REQUEST_SPEC)),
        one(3, "status", Kind::Message(&AUTHENTICATION_V1_TOKEN_REQUEST_STATUS)),
    ],
};

static AUTHENTICATION_V1_TOKEN_REQUEST_SPEC: Message = Message {
    name: "authentication.v1.TokenRequestSpec",
    fields: &[
        many(1, "audiences", Kind::Text),
        one(
            3,
            "boundObjectRef",
            Kind::Message(&AUTHENTICATION_V1_BOUND_OBJECT_REFERENCE),
        ),
        one(4, "expirationSeconds", Kind::Integer),
    ],
};

static AUTHENTICATION_V1_TOKEN_REQUEST_STATUS: Message = Message {
    name: "authentication.v1.TokenRequestStatus",
    fields: &[one(1, "token", Kind::Text), one(2, "expirationTimestamp", Kind::Time)],
};

static AUTHENTICATION_V1_TOKEN_REVIEW: Message = Message {
    name: "authentication.v1.TokenReview",
    fields: &[
        one(1, "metadata", Kind::Message(&META_V1_OBJECT_META)),
        one(2, "spec", Kind::Message(&AUTHENTICATION_V1_TOKEN_REVIEW_SPEC)),
        one(3, "status", Kind::Message(&AUTHENTICATION_V1_TOKEN_REVIEW_STATUS)),
    ],
};

static AUTHENTICATION_V1_TOKEN_REVIEW_SPEC: Message = Message {
    name: "authentication.v1.TokenReviewSpec",
    fields: &[one(1, "token", Kind::Text), many(2, "audiences", Kind::Text)],
};

static AUTHENTICATION_V1_TOKEN_REVIEW_STATUS: Message = Message {
    name: "authentication.v1.TokenReviewStatus",
    fields: &[
        one(1, "authenticated", Kind::Boolean),
        one(2, "user", Kind::Message(&AUTHENTICATION_V1_USER_INFO)),
        one(3, "error", Kind::Text),
        many(4, "audiences", Kind::Text),
    ],
};

static AUTHENTICATION_V1_USER_INFO: Message = Message {
    name: "authentication.v1.UserInfo",
    fields: &[
        one(1, "username", Kind::Text),
        one(2, "uid", Kind::Text),
        many(3, "groups", Kind::Text),
        map(4, "extra", Kind::Texts),
    ],
};

static AUTHORIZATION_V1_FIELD_SELECTOR_ATTRIBUTES: Message = Message {
    name: "authorization.v1.FieldSelectorAttributes",
    fields: &[
        one(1, "rawSelector", Kind::Text),
        many(2, "requirements", Kind::Message(&META_V1_FIELD_SELECTOR_REQUIREMENT)),
    ],
};

static AUTHORIZATION_V1_LABEL_SELECTOR_ATTRIBUTES: Message = Message {
    name: "authorization.v1.LabelSelectorAttributes",
    fields: &[
        one(1, "rawSelector", Kind::Text),
        many(2, "requirements", Kind::Message(&META_V1_LABEL_SELECTOR_REQUIREMENT)),
    ],
};

static AUTHORIZATION_V1_NON_RESOURCE_ATTRIBUTES: Message = Message {
    name: "authorization.v1.NonResourceAttributes",
    fields: &[one(1, "path", Kind::Text), one(2, "verb", Kind::Text)],
};

static AUTHORIZATION_V1_NON_RESOURCE_RULE: Message = Message {
    name: "authorization.v1.NonResourceRule",
    fields: &[many(1, "verbs", Kind::Text), many(2, "nonResourceURLs", Kind::Text)],
};

static AUTHORIZATION_V1_RESOURCE_ATTRIBUTES: Message = Message {
    name: "authorization.v1.ResourceAttributes",
    fields: &[
        one(1, "namespace", Kind::Text),
        one(2, "verb", Kind::Text),
        one(3, "group", Kind::Text),
        one(4, "version", Kind::Text),
        one(5, "resource", Kind::Text),
        one(6, "subresource", Kind::Text),
        one(7, "name", Kind::Text),
        one(
            8,
            "fieldSelector",
            Kind::Message(&AUTHORIZATION_V1_FIELD_SELECTOR_ATTRIBUTES),
        ),
        one(
            9,
            "labelSelector",
            Kind::Message(&AUTHORIZATION_V1_LABEL_SELECTOR_ATTRIBUTES),
        ),
    ],
};

static AUTHORIZATION_V1_RESOURCE_RULE: Message = Message {
    name: "authorization.v1.ResourceRule",
    fields: &[
        many(1, "verbs", Kind::Text),
        many(2, "apiGroups", Kind::Text),
        many(3, "resources", Kind::Text),
        many(4, "resourceNames", Kind::Text),
    ],
};

static AUTHORIZATION_V1_SELF_SUBJECT_ACCESS_REVIEW: Message = Message {
    name: "authorization.v1.SelfSubjectAccessReview",
    fields: &[
        one(1, "metadata", Kind::Message(&META_V1_OBJECT_META)),
        one(
            2,
            "spec",
            Kind::Message(&AUTHORIZATION_V1_SELF_SUBJECT_ACCESS_REVIEW_SPEC),
        ),
        one(
            3,
            "status",
            Kind::Message(&AUTHORIZATION_V1_SUBJECT_ACCESS_REVIEW_STATUS),
        ),
    ],
};

static AUTHORIZATION_V1_SELF_SUBJECT_ACCESS_REVIEW_SPEC: Message = Message {
    name: "authorization.v1.SelfSubjectAccessReviewSpec",
    fields: &[
        one(
            1,
            "resourceAttributes",
            Kind::Message(&AUTHORIZATION_V1_RESOURCE_ATTRIBUTES),
        ),
        one(
            2,
            "nonResourceAttributes",
            Kind::Message(&AUTHORIZATION_V1_NON_RESOURCE_ATTRIBUTES),
        ),
    ],
};

static AUTHORIZATION_V1_SELF_SUBJECT_RULES_REVIEW: Message = Message {
    name: "authorization.v1.SelfSubjectRulesReview",
    fields: &[
        one(1, "metadata", Kind::Message(&META_V1_OBJECT_META)),
        one(
            2,
            "spec",
            Kind::Message(&AUTHORIZATION_V1_SELF_SUBJECT_RULES_REVIEW_SPEC),
        ),
        one(
            3,
            "status",
            Kind::Message(&AUTHORIZATION_V1_SUBJECT_RULES_REVIEW_STATUS),
        ),
    ],
};

static AUTHORIZATION_V1_SELF_SUBJECT_RULES_REVIEW_SPEC: Message = Message {
    name: "authorization.v1.SelfSubjectRulesReviewSpec",
    fields: &[one(1, "namespace", Kind::Text)],
};

static AUTHORIZATION_V1_SUBJECT_ACCESS_REVIEW: Message = Message {
    name: "authorization.v1.SubjectAccessReview",
    fields: &[
        one(1, "metadata", Kind::Message(&META_V1_OBJECT_META)),
        one(2, "spec", Kind::Message(&AUTHORIZATION_V1_SUBJECT_ACCESS_REVIEW_SPEC)),
        one(
            3,
            "status",
            Kind::Message(&AUTHORIZATION_V1_SUBJECT_ACCESS_REVIEW_STATUS),
        ),
    ],
};

static AUTHORIZATION_V1_SUBJECT_ACCESS_REVIEW_SPEC: Message = Message {
    name: "authorization.v1.SubjectAccessReviewSpec",
    fields: &[
        one(
            1,
            "resourceAttributes",
            Kind::Message(&AUTHORIZATION_V1_RESOURCE_ATTRIBUTES),
        ),
        one(
            2,
            "nonResourceAttributes",
            Kind::Message(&AUTHORIZATION_V1_NON_RESOURCE_ATTRIBUTES),
        ),
        one(3, "user", Kind::Text),
        many(4, "groups", Kind::Text),
        map(5, "extra", Kind::Texts),
        one(6, "uid", Kind::Text),
    ],
};

static AUTHORIZATION_V1_SUBJECT_ACCESS_REVIEW_STATUS: Message = Message {
    name: "authorization.v1.SubjectAccessReviewStatus",
    fields: &[
        one(1, "allowed", Kind::Boolean),
        one(2, "reason", Kind::Text),
        one(3, "evaluationError", Kind::Text),
        one(4, "denied", Kind::Boolean),
    ],
};

static AUTHORIZATION_V1_SUBJECT_RULES_REVIEW_STATUS: Message = Message {
    name: "authorization.v1.SubjectRulesReviewStatus",
    fields: &[
        many(1, "resourceRules", Kind::Message(&AUTHORIZATION_V1_RESOURCE_RULE)),
        many(
            2,
            "nonResourceRules",
            Kind::Message(&AUTHORIZATION_V1_NON_RESOURCE_RULE),
        ),
        one(3, "incomplete", Kind::Boolean),
        one(4, "evaluationError", Kind::Text),
    ],
};

static AUTOSCALING_V1_SCALE: Message = Message {
    name: "autoscaling.v1.Scale",
    fields: &[
        one(1, "metadata", Kind::Message(&META_V1_OBJECT_META)),
        one(2, "spec", Kind::Message(&AUTOSCALING_V1_SCALE_SPEC)),
        one(3, "status", Kind::Message(&AUTOSCALING_V1_SCALE_STATUS)),
    ],
};

static AUTOSCALING_V1_SCALE_SPEC: Message = Message {
    name: "autoscaling.v1.ScaleSpec",
    fields: &[one(1, "replicas", Kind::Integer)],
};

static AUTOSCALING_V1_SCALE_STATUS: Message = Message {
    name: "autoscaling.v1.ScaleStatus",
    fields: &[one(1, "replicas", Kind::Integer), one(2, "selector", Kind::Text)],
};

static BATCH_V1_JOB: Message = Message {
    name: "batch.v1.Job",
    fields: &[
        one(1, "metadata", Kind::Message(&META_V1_OBJECT_META)),
        one(2, "spec", Kind::Message(&BATCH_V1_JOB_SPEC)),
        one(3, "status", Kind::Message(&BATCH_V1_JOB_STATUS)),
    ],
};

static BATCH_V1_JOB_CONDITION: Message = Message {
    name: "batch.v1.JobCondition",
    fields: &[
        one(1, "type", Kind::Text),
        one(2, "status", Kind::Text),
        one(3, "lastProbeTime", Kind::Time),
        one(4, "lastTransitionTime", Kind::Time),
        one(5, "reason", Kind::Text),
        one(6, "message", Kind::Text),
    ],
};

static BATCH_V1_JOB_SPEC: Message = Message {
    name: "batch.v1.JobSpec",
    fields: &[
        one(1, "parallelism", Kind::Integer),
        one(2, "completions", Kind::Integer),
        one(3, "activeDeadlineSeconds", Kind::Integer),
        one(4, "selector", Kind::Message(&META_V1_LABEL_SELECTOR)),
        one(5, "manualSelector", Kind::Boolean),
        one(6, "template", Kind::Message(&CORE_V1_POD_TEMPLATE_SPEC)),
        one(7, "backoffLimit", Kind::Integer),
        one(8, "ttlSecondsAfterFinished", Kind::Integer),
        one(9, "completionMode", Kind::Text),
        one(10, "suspend", Kind::Boolean),
        one(11, "podFailurePolicy", Kind::Message(&BATCH_V1_POD_FAILURE_POLICY)),
        one(12, "backoffLimitPerIndex", Kind::Integer),
        one(13, "maxFailedIndexes", Kind::Integer),
        one(14, "podReplacementPolicy", Kind::Text),
        one(15, "managedBy", Kind::Text),
        one(16, "successPolicy", Kind::Message(&BATCH_V1_SUCCESS_POLICY)),
    ],
};

static BATCH_V1_JOB_STATUS: Message = Message {
    name: "batch.v1.JobStatus",
    fields: &[
        many(1, "conditions", Kind::Message(&BATCH_V1_JOB_CONDITION)).merged("type"),
        one(2, "startTime", Kind::Time),
        one(3, "completionTime", Kind::Time),
        one(4, "active", Kind::Integer),
        one(5, "succeeded", Kind::Integer),
        one(6, "failed", Kind::Integer),
        one(7, "completedIndexes", Kind::Text),
        one(
            8,
            "uncountedTerminatedPods",
            Kind::Message(&BATCH_V1_UNCOUNTED_TERMINATED_PODS),
        ),
        one(9, "ready", Kind::Integer),
        one(10, "failedIndexes", Kind::Text),
        one(11, "terminating", Kind::Integer),
    ],
};

static BATCH_V1_POD_FAILURE_POLICY: Message = Message {
    name: "batch.v1.PodFailurePolicy",
    fields: &[many(1, "rules", Kind::Message(&BATCH_V1_POD_FAILURE_POLICY_RULE))],
};

static BATCH_V1_POD_FAILURE_POLICY_ON_EXIT_CODES_REQUIREMENT: Message = Message {
    name: "batch.v1.PodFailurePolicyOnExitCodesRequirement",
    fields: &[
        one(1, "containerName", Kind::Text),
        one(2, "operator", Kind::Text),
        many(3, "values", Kind::Integer),
    ],
};

static BATCH_V1_POD_FAILURE_POLICY_ON_POD_CONDITIONS_PATTERN: Message = Message {
    name: "batch.v1.PodFailurePolicyOnPodConditionsPattern",
    fields: &[one(1, "type", Kind::Text), one(2, "status", Kind::Text)],
};

static BATCH_V1_POD_FAILURE_POLICY_RULE: Message = Message {
    name: "batch.v1.PodFailurePolicyRule",
    fields: &[
        one(1, "action", Kind::Text),
        one(
            2,
            "onExitCodes",
            Kind::Message(&BATCH_V1_POD_FAILURE_POLICY_ON_EXIT_CODES_REQUIREMENT),
        ),
        many(
            3,
            "onPodConditions",
            Kind::Message(&BATCH_V1_POD_FAILURE_POLICY_ON_POD_CONDITIONS_PATTERN),
        ),
    ],
};

static BATCH_V1_SUCCESS_POLICY: Message = Message {
    name: "batch.v1.SuccessPolicy",
    fields: &[many(1, "rules", Kind::Message(&BATCH_V1_SUCCESS_POLICY_RULE))],
};

static BATCH_V1_SUCCESS_POLICY_RULE: Message = Message {
    name: "batch.v1.SuccessPolicyRule",
    fields: &[
        one(1, "succeededIndexes", Kind::Text),
        one(2, "succeededCount", Kind::Integer),
    ],
};

static BATCH_V1_UNCOUNTED_TERMINATED_PODS: Message = Message {
    name: "batch.v1.UncountedTerminatedPods",
    fields: &[many(1, "succeeded", Kind::Text), many(2, "failed", Kind::Text)],
};

static COORDINATION_V1_LEASE: Message = Message {
    name: "coordination.v1.Lease",
    fields: &[
        one(1, "metadata", Kind::Message(&META_V1_OBJECT_META)),
        one(2, "spec", Kind::Message(&COORDINATION_V1_LEASE_SPEC)),
    ],
};

static COORDINATION_V1_LEASE_SPEC: Message = Message {
    name: "coordination.v1.LeaseSpec",
    fields: &[
        one(1, "holderIdentity", Kind::Text),
        one(2, "leaseDurationSeconds", Kind::Integer),
        one(3, "acquireTime", Kind::MicroTime),
        one(4, "renewTime", Kind::MicroTime),
        one(5, "leaseTransitions", Kind::Integer),
        one(6, "strategy", Kind::Text),
        one(7, "preferredHolder", Kind::Text),
    ],
};

static CORE_V1_AWS_ELASTIC_BLOCK_STORE_VOLUME_SOURCE: Message = Message {
    name: "core.v1.AWSElasticBlockStoreVolumeSource",
    fields: &[
        one(1, "volumeID", Kind::Text),
        one(2, "fsType", Kind::Text),
        one(3, "partition", Kind::Integer).plain(),
        one(4, "readOnly", Kind::Boolean).plain(),
    ],
};

static CORE_V1_AFFINITY: Message = Message {
    name: "core.v1.Affinity",
    fields: &[
        one(1, "nodeAffinity", Kind::Message(&CORE_V1_NODE_AFFINITY)),
        one(2, "podAffinity", Kind::Message(&CORE_V1_POD_AFFINITY)),
        one(3, "podAntiAffinity", Kind::Message(&CORE_V1_POD_ANTI_AFFINITY)),
    ],
};

static CORE_V1_APP_ARMOR_PROFILE: Message = Message {
    name: "core.v1.AppArmorProfile",
    fields: &[one(1, "type", Kind::Text), one(2, "localhostProfile", Kind::Text)],
};

static CORE_V1_ATTACHED_VOLUME: Message = Message {
    name: "core.v1.AttachedVolume",
    fields: &[one(1, "name", Kind::Text), one(2, "devicePath", Kind::Text)],
};

static CORE_V1_AZURE_DISK_VOLUME_SOURCE: Message = Message {
    name: "core.v1.AzureDiskVolumeSource",
    fields: &[
        one(1, "diskName", Kind::Text),
        one(2, "diskURI", Kind::Text),
        one(3, "cachingMode", Kind::Text),
        one(4, "fsType", Kind::Text),
        one(5, "readOnly", Kind::Boolean),
        one(6, "kind", Kind::Text),
    ],
};

static CORE_V1_AZURE_FILE_VOLUME_SOURCE: Message = Message {
    name: "core.v1.AzureFileVolumeSource",
    fields: &[
        one(1, "secretName", Kind::Text),
        one(2, "shareName", Kind::Text),
        one(3, "readOnly", Kind::Boolean).plain(),
    ],
};

static CORE_V1_BINDING: Message = Message {
    name: "core.v1.Binding",
    fields: &[
        one(1, "metadata", Kind::Message(&META_V1_OBJECT_META)),
        one(2, "target", Kind::Message(&CORE_V1_OBJECT_REFERENCE)),
    ],
};

static CORE_V1_CSI_VOLUME_SOURCE: Message = Message {
    name: "core.v1.CSIVolumeSource",
    fields: &[
        one(1, "driver", Kind::Text),
        one(2, "readOnly", Kind::Boolean),
        one(3, "fsType", Kind::Text),
        map(4, "volumeAttributes", Kind::Text),
        one(
            5,
            "nodePublishSecretRef",
            Kind::Message(&CORE_V1_LOCAL_OBJECT_REFERENCE),
        ),
    ],
};

static CORE_V1_CAPABILITIES: Message = Message {
    name: "core.v1.Capabilities",
    fields: &[many(1, "add", Kind::Text), many(2, "drop", Kind::Text)],
};

static CORE_V1_CEPH_FS_VOLUME_SOURCE: Message = Message {
    name: "core.v1.CephFSVolumeSource",
    fields: &[
        many(1, "monitors", Kind::Text),
        one(2, "path", Kind::Text),
        one(3, "user", Kind::Text),
        one(4, "secretFile", Kind::Text),
        one(5, "secretRef", Kind::Message(&CORE_V1_LOCAL_OBJECT_REFERENCE)),
        one(6, "readOnly", Kind::Boolean).plain(),
    ],
};

static CORE_V1_CINDER_VOLUME_SOURCE: Message = Message {
    name: "core.v1.CinderVolumeSource",
    fields: &[
        one(1, "volumeID", Kind::Text),
        one(2, "fsType", Kind::Text),
        one(3, "readOnly", Kind::Boolean).plain(),
        one(4, "secretRef", Kind::Message(&CORE_V1_LOCAL_OBJECT_REFERENCE)),
    ],
};

static CORE_V1_CLIENT_IP_CONFIG: Message = Message {
    name: "core.v1.ClientIPConfig",
    fields: &[one(1, "timeoutSeconds", Kind::Integer)],
};

static CORE_V1_CLUSTER_TRUST_BUNDLE_PROJECTION: Message = Message {
    name: "core.v1.ClusterTrustBundleProjection",
    fields: &[
        one(1, "name", Kind::Text),
        one(2, "signerName", Kind::Text),
        one(3, "labelSelector", Kind::Message(&META_V1_LABEL_SELECTOR)),
        one(4, "path", Kind::Text),
        one(5, "optional", Kind::Boolean),
    ],
};

static CORE_V1_CONFIG_MAP: Message = Message {
    name: "core.v1.ConfigMap",
    fields: &[
        one(1, "metadata", Kind::Message(&META_V1_OBJECT_META)),
        map(2, "data", Kind::Text),
        map(3, "binaryData", Kind::Bytes),
        one(4, "immutable", Kind::Boolean),
    ],
};

static CORE_V1_CONFIG_MAP_ENV_SOURCE: Message = Message {
    name: "core.v1.ConfigMapEnvSource",
    fields: &[
        one(1, "", Kind::Inline(&CORE_V1_LOCAL_OBJECT_REFERENCE)),
        one(2, "optional", Kind::Boolean),
    ],
};

static CORE_V1_CONFIG_MAP_KEY_SELECTOR: Message = Message {
    name: "core.v1.ConfigMapKeySelector",
    fields: &[
        one(1, "", Kind::Inline(&CORE_V1_LOCAL_OBJECT_REFERENCE)),
        one(2, "key", Kind::Text),
        one(3, "optional", Kind::Boolean),
    ],
};

static CORE_V1_CONFIG_MAP_NODE_CONFIG_SOURCE: Message = Message {
    name: "core.v1.ConfigMapNodeConfigSource",
    fields: &[
        one(1, "namespace", Kind::Text),
        one(2, "name", Kind::Text),
        one(3, "uid", Kind::Text),
        one(4, "resourceVersion", Kind::Text),
        one(5, "kubeletConfigKey", Kind::Text),
    ],
};

static CORE_V1_CONFIG_MAP_PROJECTION: Message = Message {
    name: "core.v1.ConfigMapProjection",
    fields: &[
        one(1, "", Kind::Inline(&CORE_V1_LOCAL_OBJECT_REFERENCE)),
        many(2, "items", Kind::Message(&CORE_V1_KEY_TO_PATH)),
        one(4, "optional", Kind::Boolean),
    ],
};

static CORE_V1_CONFIG_MAP_VOLUME_SOURCE: Message = Message {
    name: "core.v1.ConfigMapVolumeSource",
    fields: &[
        one(1, "", Kind::Inline(&CORE_V1_LOCAL_OBJECT_REFERENCE)),
        many(2, "items", Kind::Message(&CORE_V1_KEY_TO_PATH)),
        one(3, "defaultMode", Kind::Integer),
        one(4, "optional", Kind::Boolean),
    ],
};

static CORE_V1_CONTAINER: Message = Message {
    name: "core.v1.Container",
    fields: &[
        one(1, "name", Kind::Text),
        one(2, "image", Kind::Text),
        many(3, "command", Kind::Text),
        many(4, "args", Kind::Text),
        one(5, "workingDir", Kind::Text),
        many(6, "ports", Kind::Message(&CORE_V1_CONTAINER_PORT)).merged("containerPort"),
        many(7, "env", Kind::Message(&CORE_V1_ENV_VAR)).merged("name"),
        one(8, "resources", Kind::Message(&CORE_V1_RESOURCE_REQUIREMENTS)),
        many(9, "volumeMounts", Kind::Message(&CORE_V1_VOLUME_MOUNT)).merged("mountPath"),
        one(10, "livenessProbe", Kind::Message(&CORE_V1_PROBE)),
        one(11, "readinessProbe", Kind::Message(&CORE_V1_PROBE)),
        one(12, "lifecycle", Kind::Message(&CORE_V1_LIFECYCLE)),
        one(13, "terminationMessagePath", Kind::Text),
        one(14, "imagePullPolicy", Kind::Text),
        one(15, "securityContext", Kind::Message(&CORE_V1_SECURITY_CONTEXT)),
        one(16, "stdin", Kind::Boolean).plain(),
        one(17, "stdinOnce", Kind::Boolean).plain(),
        one(18, "tty", Kind::Boolean).plain(),
        many(19, "envFrom", Kind::Message(&CORE_V1_ENV_FROM_SOURCE)),
        one(20, "terminationMessagePolicy", Kind::Text),
        many(21, "volumeDevices", Kind::Message(&CORE_V1_VOLUME_DEVICE)).merged("devicePath"),
        one(22, "startupProbe", Kind::Message(&CORE_V1_PROBE)),
        many(23, "resizePolicy", Kind::Message(&CORE_V1_CONTAINER_RESIZE_POLICY)),
        one(24, "restartPolicy", Kind::Text),
        many(25, "restartPolicyRules", Kind::Message(&CORE_V1_CONTAINER_RESTART_RULE)),
    ],
};

static CORE_V1_CONTAINER_EXTENDED_RESOURCE_REQUEST: Message = Message {
    name: "core.v1.ContainerExtendedResourceRequest",
    fields: &[
        one(1, "containerName", Kind::Text),
        one(2, "resourceName", Kind::Text),
        one(3, "requestName", Kind::Text),
    ],
};

static CORE_V1_CONTAINER_IMAGE: Message = Message {
    name: "core.v1.ContainerImage",
    fields: &[many(1, "names", Kind::Text), one(2, "sizeBytes", Kind::Integer)],
};

static CORE_V1_CONTAINER_PORT: Message = Message {
    name: "core.v1.ContainerPort",
    fields: &[
        one(1, "name", Kind::Text),
        one(2, "hostPort", Kind::Integer).plain(),
        one(3, "containerPort", Kind::Integer),
        one(4, "protocol", Kind::Text),
        one(5, "hostIP", Kind::Text),
    ],
};

static CORE_V1_CONTAINER_RESIZE_POLICY: Message = Message {
    name: "core.v1.ContainerResizePolicy",
    fields: &[one(1, "resourceName", Kind::Text), one(2, "restartPolicy", Kind::Text)],
};

static CORE_V1_CONTAINER_RESTART_RULE: Message = Message {
    name: "core.v1.ContainerRestartRule",
    fields: &[
        one(1, "action", Kind::Text),
        one(
            2,
            "exitCodes",
            Kind::Message(&CORE_V1_CONTAINER_RESTART_RULE_ON_EXIT_CODES),
        ),
    ],
};

static CORE_V1_CONTAINER_RESTART_RULE_ON_EXIT_CODES: Message = Message {
    name: "core.v1.ContainerRestartRuleOnExitCodes",
    fields: &[one(1, "operator", Kind::Text), many(2, "values", Kind::Integer)],
};

static CORE_V1_CONTAINER_STATE: Message = Message {
    name: "core.v1.ContainerState",
    fields: &[
        one(1, "waiting", Kind::Message(&CORE_V1_CONTAINER_STATE_WAITING)),
        one(2, "running", Kind::Message(&CORE_V1_CONTAINER_STATE_RUNNING)),
        one(3, "terminated", Kind::Message(&CORE_V1_CONTAINER_STATE_TERMINATED)),
    ],
};

static CORE_V1_CONTAINER_STATE_RUNNING: Message = Message {
    name: "core.v1.ContainerStateRunning",
    fields: &[one(1, "startedAt", Kind::Time)],
};

static CORE_V1_CONTAINER_STATE_TERMINATED: Message = Message {
    name: "core.v1.ContainerStateTerminated",
    fields: &[
        one(1, "exitCode", Kind::Integer),
        one(2, "signal", Kind::Integer).plain(),
        one(3, "reason", Kind::Text),
        one(4, "message", Kind::Text),
        one(5, "startedAt", Kind::Time),
        one(6, "finishedAt", Kind::Time),
        one(7, "containerID", Kind::Text),
    ],
};

static CORE_V1_CONTAINER_STATE_WAITING: Message = Message {
    name: "core.v1.ContainerStateWaiting",
    fields: &[one(1, "reason", Kind::Text), one(2, "message", Kind::Text)],
};

static CORE_V1_CONTAINER_STATUS: Message = Message {
    name: "core.v1.ContainerStatus",
    fields: &[
        one(1, "name", Kind::Text),
        one(2, "state", Kind::Message(&CORE_V1_CONTAINER_STATE)),
        one(3, "lastState", Kind::Message(&CORE_V1_CONTAINER_STATE)),
        one(4, "ready", Kind::Boolean),
        one(5, "restartCount", Kind::Integer),
        one(6, "image", Kind::Text),
        one(7, "imageID", Kind::Text),
        one(8, "containerID", Kind::Text),
        one(9, "started", Kind::Boolean),
        map(10, "allocatedResources", Kind::Quantity),
        one(11, "resources", Kind::Message(&CORE_V1_RESOURCE_REQUIREMENTS)),
        many(12, "volumeMounts", Kind::Message(&CORE_V1_VOLUME_MOUNT_STATUS)).merged("mountPath"),
        one(13, "user", Kind::Message(&CORE_V1_CONTAINER_USER)),
        many(14, "allocatedResourcesStatus", Kind::Message(&CORE_V1_RESOURCE_STATUS)).merged("name"),
        one(15, "stopSignal", Kind::Text),
    ],
};

static CORE_V1_CONTAINER_USER: Message = Message {
    name: "core.v1.ContainerUser",
    fields: &[one(1, "linux", Kind::Message(&CORE_V1_LINUX_CONTAINER_USER))],
};

static CORE_V1_DAEMON_ENDPOINT: Message = Message {
    name: "core.v1.DaemonEndpoint",
    fields: &[one(1, "Port", Kind::Integer)],
};

static CORE_V1_DOWNWARD_API_PROJECTION: Message = Message {
    name: "core.v1.DownwardAPIProjection",
    fields: &[many(1, "items", Kind::Message(&CORE_V1_DOWNWARD_API_VOLUME_FILE))],
};

static CORE_V1_DOWNWARD_API_VOLUME_FILE: Message = Message {
    name: "core.v1.DownwardAPIVolumeFile",
    fields: &[
        one(1, "path", Kind::Text),
        one(2, "fieldRef", Kind::Message(&CORE_V1_OBJECT_FIELD_SELECTOR)),
        one(3, "resourceFieldRef", Kind::Message(&CORE_V1_RESOURCE_FIELD_SELECTOR)),
        one(4, "mode", Kind::Integer),
    ],
};

static CORE_V1_DOWNWARD_API_VOLUME_SOURCE: Message = Message {
    name: "core.v1.DownwardAPIVolumeSource",
    fields: &[
        many(1, "items", Kind::Message(&CORE_V1_DOWNWARD_API_VOLUME_FILE)),
        one(2, "defaultMode", Kind::Integer),
    ],
};

static CORE_V1_EMPTY_DIR_VOLUME_SOURCE: Message = Message {
    name: "core.v1.EmptyDirVolumeSource",
    fields: &[one(1, "medium", Kind::Text), one(2, "sizeLimit", Kind::Quantity)],
};

static CORE_V1_ENDPOINT_ADDRESS: Message = Message {
    name: "core.v1.EndpointAddress",
    fields: &[
        one(1, "ip", Kind::Text),
        one(2, "targetRef", Kind::Message(&CORE_V1_OBJECT_REFERENCE)),
        one(3, "hostname", Kind::Text),
        one(4, "nodeName", Kind::Text),
    ],
};

static CORE_V1_ENDPOINT_PORT: Message = Message {
    name: "core.v1.EndpointPort",
    fields: &[
        one(1, "name", Kind::Text),
        one(2, "port", Kind::Integer),
        one(3, "protocol", Kind::Text),
        one(4, "appProtocol", Kind::Text),
    ],
};

static CORE_V1_ENDPOINT_SUBSET: Message = Message {
    name: "core.v1.EndpointSubset",
    fields: &[
        many(1, "addresses", Kind::Message(&CORE_V1_ENDPOINT_ADDRESS)),
        many(2, "notReadyAddresses", Kind::Message(&CORE_V1_ENDPOINT_ADDRESS)),
        many(3, "ports", Kind::Message(&CORE_V1_ENDPOINT_PORT)),
    ],
};

static CORE_V1_ENDPOINTS: Message = Message {
    name: "core.v1.Endpoints",
    fields: &[
        one(1, "metadata", Kind::Message(&META_V1_OBJECT_META)),
        many(2, "subsets", Kind::Message(&CORE_V1_ENDPOINT_SUBSET)),
    ],
};

static CORE_V1_ENV_FROM_SOURCE: Message = Message {
    name: "core.v1.EnvFromSource",
    fields: &[
        one(1, "prefix", Kind::Text),
        one(2, "configMapRef", Kind::Message(&CORE_V1_CONFIG_MAP_ENV_SOURCE)),
        one(3, "secretRef", Kind::Message(&CORE_V1_SECRET_ENV_SOURCE)),
    ],
};

static CORE_V1_ENV_VAR: Message = Message {
    name: "core.v1.EnvVar",
    fields: &[
        one(1, "name", Kind::Text),
        one(2, "value", Kind::Text),
        one(3, "valueFrom", Kind::Message(&CORE_V1_ENV_VAR_SOURCE)),
    ],
};

static CORE_V1_ENV_VAR_SOURCE: Message = Message {
    name: "core.v1.EnvVarSource",
    fields: &[
        one(1, "fieldRef", Kind::Message(&CORE_V1_OBJECT_FIELD_SELECTOR)),
        one(2, "resourceFieldRef", Kind::Message(&CORE_V1_RESOURCE_FIELD_SELECTOR)),
        one(3, "configMapKeyRef", Kind::Message(&CORE_V1_CONFIG_MAP_KEY_SELECTOR)),
        one(4, "secretKeyRef", Kind::Message(&CORE_V1_SECRET_KEY_SELECTOR)),
        one(5, "fileKeyRef", Kind::Message(&CORE_V1_FILE_KEY_SELECTOR)),
    ],
};

static CORE_V1_EPHEMERAL_CONTAINER: Message = Message {
    name: "core.v1.EphemeralContainer",
    fields: &[
        one(1, "", Kind::Inline(&CORE_V1_EPHEMERAL_CONTAINER_COMMON)),
        one(2, "targetContainerName", Kind::Text),
    ],
};

static CORE_V1_EPHEMERAL_CONTAINER_COMMON: Message = Message {
    name: "core.v1.EphemeralContainerCommon",
    fields: &[
        one(1, "name", Kind::Text),
        one(2, "image", Kind::Text),
        many(3, "command", Kind::Text),
        many(4, "args", Kind::Text),
        one(5, "workingDir", Kind::Text),
        many(6, "ports", Kind::Message(&CORE_V1_CONTAINER_PORT)).merged("containerPort"),
        many(7, "env", Kind::Message(&CORE_V1_ENV_VAR)).merged("name"),
        one(8, "resources", Kind::Message(&CORE_V1_RESOURCE_REQUIREMENTS)),
        many(9, "volumeMounts", Kind::Message(&CORE_V1_VOLUME_MOUNT)).merged("mountPath"),
        one(10, "livenessProbe", Kind::Message(&CORE_V1_PROBE)),
        one(11, "readinessProbe", Kind::Message(&CORE_V1_PROBE)),
        one(12, "lifecycle", Kind::Message(&CORE_V1_LIFECYCLE)),
        one(13, "terminationMessagePath", Kind::Text),
        one(14, "imagePullPolicy", Kind::Text),
        one(15, "securityContext", Kind::Message(&CORE_V1_SECURITY_CONTEXT)),
        one(16, "stdin", Kind::Boolean).plain(),
        one(17, "stdinOnce", Kind::Boolean).plain(),
        one(18, "tty", Kind::Boolean).plain(),
        many(19, "envFrom", Kind::Message(&CORE_V1_ENV_FROM_SOURCE)),
        one(20, "terminationMessagePolicy", Kind::Text),
        many(21, "volumeDevices", Kind::Message(&CORE_V1_VOLUME_DEVICE)).merged("devicePath"),
        one(22, "startupProbe", Kind::Message(&CORE_V1_PROBE)),
        many(23, "resizePolicy", Kind::Message(&CORE_V1_CONTAINER_RESIZE_POLICY)),
        one(24, "restartPolicy", Kind::Text),
        many(25, "restartPolicyRules", Kind::Message(&CORE_V1_CONTAINER_RESTART_RULE)),
    ],
};

static CORE_V1_EPHEMERAL_VOLUME_SOURCE: Message = Message {
    name: "core.v1.EphemeralVolumeSource",
    fields: &[one(
        1,
        "volumeClaimTemplate",
        Kind::Message(&CORE_V1_PERSISTENT_VOLUME_CLAIM_TEMPLATE),
    )],
};

static CORE_V1_EVENT: Message = Message {
    name: "core.v1.Event",
    fields: &[
        one(1, "metadata", Kind::Message(&META_V1_OBJECT_META)),
        one(2, "involvedObject", Kind::Message(&CORE_V1_OBJECT_REFERENCE)),
        one(3, "reason", Kind::Text),
        one(4, "message", Kind::Text),
        one(5, "source", Kind::Message(&CORE_V1_EVENT_SOURCE)),
        one(6, "firstTimestamp", Kind::Time),
        one(7, "lastTimestamp", Kind::Time),
        one(8, "count", Kind::Integer).plain(),
        one(9, "type", Kind::Text),
        one(10, "eventTime", Kind::MicroTime),
        one(11, "series", Kind::Message(&CORE_V1_EVENT_SERIES)),
        one(12, "action", Kind::Text),
        one(13, "related", Kind::Message(&CORE_V1_OBJECT_REFERENCE)),
        one(14, "reportingComponent", Kind::Text),
        one(15, "reportingInstance", Kind::Text),
    ],
};

static CORE_V1_EVENT_SERIES: Message = Message {
    name: "core.v1.EventSeries",
    fields: &[
        one(1, "count", Kind::Integer).plain(),
        one(2, "lastObservedTime", Kind::MicroTime),
    ],
};

static CORE_V1_EVENT_SOURCE: Message = Message {
    name: "core.v1.EventSource",
    fields: &[one(1, "component", Kind::Text), one(2, "host", Kind::Text)],
};

static CORE_V1_EXEC_ACTION: Message = Message {
    name: "core.v1.ExecAction",
    fields: &[many(1, "command", Kind::Text)],
};

static CORE_V1_FC_VOLUME_SOURCE: Message = Message {
    name: "core.v1.FCVolumeSource",
    fields: &[
        many(1, "targetWWNs", Kind::Text),
        one(2, "lun", Kind::Integer),
        one(3, "fsType", Kind::Text),
        one(4, "readOnly", Kind::Boolean).plain(),
        many(5, "wwids", Kind::Text),
    ],
};

static CORE_V1_FILE_KEY_SELECTOR: Message = Message {
    name: "core.v1.FileKeySelector",
    fields: &[
        one(1, "volumeName", Kind::Text),
        one(2, "path", Kind::Text),
        one(3, "key", Kind::Text),
        one(4, "optional", Kind::Boolean),
    ],
};

static CORE_V1_FLEX_VOLUME_SOURCE: Message = Message {
    name: "core.v1.FlexVolumeSource",
    fields: &[
        one(1, "driver", Kind::Text),
        one(2, "fsType", Kind::Text),
        one(3, "secretRef", Kind::Message(&CORE_V1_LOCAL_OBJECT_REFERENCE)),
        one(4, "readOnly", Kind::Boolean).plain(),
        map(5, "options", Kind::Text),
    ],
};

static CORE_V1_FLOCKER_VOLUME_SOURCE: Message = Message {
    name: "core.v1.FlockerVolumeSource",
    fields: &[one(1, "datasetName", Kind::Text), one(2, "datasetUUID", Kind::Text)],
};

static CORE_V1_GCE_PERSISTENT_DISK_VOLUME_SOURCE: Message = Message {
    name: "core.v1.GCEPersistentDiskVolumeSource",
    fields: &[
        one(1, "pdName", Kind::Text),
        one(2, "fsType", Kind::Text),
        one(3, "partition", Kind::Integer).plain(),
        one(4, "readOnly", Kind::Boolean).plain(),
    ],
};

static CORE_V1_GRPC_ACTION: Message = Message {
    name: "core.v1.GRPCAction",
    fields: &[one(1, "port", Kind::Integer), one(2, "service", Kind::Text)],
};

static CORE_V1_GIT_REPO_VOLUME_SOURCE: Message = Message {
    name: "core.v1.GitRepoVolumeSource",
    fields: &[
        one(1, "repository", Kind::Text),
        one(2, "revision", Kind::Text),
        one(3, "directory", Kind::Text),
    ],
};

static CORE_V1_GLUSTERFS_VOLUME_SOURCE: Message = Message {
    name: "core.v1.GlusterfsVolumeSource",
    fields: &[
        one(1, "endpoints", Kind::Text),
        one(2, "path", Kind::Text),
        one(3, "readOnly", Kind::Boolean).plain(),
    ],
};

static CORE_V1_HTTP_GET_ACTION: Message = Message {
    name: "core.v1.HTTPGetAction",
    fields: &[
        one(1, "path", Kind::Text),
        one(2, "port", Kind::IntOrText),
        one(3, "host", Kind::Text),
        one(4, "scheme", Kind::Text),
        many(5, "httpHeaders", Kind::Message(&CORE_V1_HTTP_HEADER)),
    ],
};

static CORE_V1_HTTP_HEADER: Message = Message {
    name: "core.v1.HTTPHeader",
    fields: &[one(1, "name", Kind::Text), one(2, "value", Kind::Text)],
};

static CORE_V1_HOST_ALIAS: Message = Message {
    name: "core.v1.HostAlias",
    fields: &[one(1, "ip", Kind::Text), many(2, "hostnames", Kind::Text)],
};

static CORE_V1_HOST_IP: Message = Message {
    name: "core.v1.HostIP",
    fields: &[one(1, "ip", Kind::Text)],
};

static CORE_V1_HOST_PATH_VOLUME_SOURCE: Message = Message {
    name: "core.v1.HostPathVolumeSource",
    fields: &[one(1, "path", Kind::Text), one(2, "type", Kind::Text)],
};

static CORE_V1_ISCSI_VOLUME_SOURCE: Message = Message {
    name: "core.v1.ISCSIVolumeSource",
    fields: &[
        one(1, "targetPortal", Kind::Text),
        one(2, "iqn", Kind::Text),
        one(3, "lun", Kind::Integer),
        one(4, "iscsiInterface", Kind::Text),
        one(5, "fsType", Kind::Text),
        one(6, "readOnly", Kind::Boolean).plain(),
        many(7, "portals", Kind::Text),
        one(8, "chapAuthDiscovery", Kind::Boolean).plain(),
        one(10, "secretRef", Kind::Message(&CORE_V1_LOCAL_OBJECT_REFERENCE)),
        one(11, "chapAuthSession", Kind::Boolean).plain(),
        one(12, "initiatorName", Kind::Text),
    ],
};

static CORE_V1_IMAGE_VOLUME_SOURCE: Message = Message {
    name: "core.v1.ImageVolumeSource",
    fields: &[one(1, "reference", Kind::Text), one(2, "pullPolicy", Kind::Text)],
};

static CORE_V1_IMAGE_VOLUME_STATUS: Message = Message {
    name: "core.v1.ImageVolumeStatus",
    fields: &[one(1, "imageRef", Kind::Text)],
};

static CORE_V1_KEY_TO_PATH: Message = Message {
    name: "core.v1.KeyToPath",
    fields: &[
        one(1, "key", Kind::Text),
        one(2, "path", Kind::Text),
        one(3, "mode", Kind::Integer),
    ],
};

static CORE_V1_LIFECYCLE: Message = Message {
    name: "core.v1.Lifecycle",
    fields: &[
        one(1, "postStart", Kind::Message(&CORE_V1_LIFECYCLE_HANDLER)),
        one(2, "preStop", Kind::Message(&CORE_V1_LIFECYCLE_HANDLER)),
        one(3, "stopSignal", Kind::Text),
    ],
};

static CORE_V1_LIFECYCLE_HANDLER: Message = Message {
    name: "core.v1.LifecycleHandler",
    fields: &[
        one(1, "exec", Kind::Message(&CORE_V1_EXEC_ACTION)),
        one(2, "httpGet", Kind::Message(&CORE_V1_HTTP_GET_ACTION)),
        one(3, "tcpSocket", Kind::Message(&CORE_V1_TCP_SOCKET_ACTION)),
        one(4, "sleep", Kind::Message(&CORE_V1_SLEEP_ACTION)),
    ],
};

static CORE_V1_LINUX_CONTAINER_USER: Message = Message {
    name: "core.v1.LinuxContainerUser",
    fields: &[
        one(1, "uid", Kind::Integer),
        one(2, "gid", Kind::Integer),
        many(3, "supplementalGroups", Kind::Integer),
    ],
};

static CORE_V1_LOAD_BALANCER_INGRESS: Message = Message {
    name: "core.v1.LoadBalancerIngress",
    fields: &[
        one(1, "ip", Kind::Text),
        one(2, "hostname", Kind::Text),
        one(3, "ipMode", Kind::Text),
        many(4, "ports", Kind::Message(&CORE_V1_PORT_STATUS)),
    ],
};

static CORE_V1_LOAD_BALANCER_STATUS: Message = Message {
    name: "core.v1.LoadBalancerStatus",
    fields: &[many(1, "ingress", Kind::Message(&CORE_V1_LOAD_BALANCER_INGRESS))],
};

static CORE_V1_LOCAL_OBJECT_REFERENCE: Message = Message {
    name: "core.v1.LocalObjectReference",
    fields: &[one(1, "name", Kind::Text)],
};

static CORE_V1_MODIFY_VOLUME_STATUS: Message = Message {
    name: "core.v1.ModifyVolumeStatus",
    fields: &[
        one(1, "targetVolumeAttributesClassName", Kind::Text),
        one(2, "status", Kind::Text),
    ],
};

static CORE_V1_NFS_VOLUME_SOURCE: Message = Message {
    name: "core.v1.NFSVolumeSource",
    fields: &[
        one(1, "server", Kind::Text),
        one(2, "path", Kind::Text),
        one(3, "readOnly", Kind::Boolean).plain(),
    ],
};

static CORE_V1_NAMESPACE: Message = Message {
    name: "core.v1.Namespace",
    fields: &[
        one(1, "metadata", Kind::Message(&META_V1_OBJECT_META)),
        one(2, "spec", Kind::Message(&CORE_V1_NAMESPACE_SPEC)),
        one(3, "status", Kind::Message(&CORE_V1_NAMESPACE_STATUS)),
    ],
};

static CORE_V1_NAMESPACE_CONDITION: Message = Message {
    name: "core.v1.NamespaceCondition",
    fields: &[
        one(1, "type", Kind::Text),
        one(2, "status", Kind::Text),
        one(4, "lastTransitionTime", Kind::Time),
        one(5, "reason", Kind::Text),
        one(6, "message", Kind::Text),
    ],
};

static CORE_V1_NAMESPACE_SPEC: Message = Message {
    name: "core.v1.NamespaceSpec",
    fields: &[many(1, "finalizers", Kind::Text)],
};

static CORE_V1_NAMESPACE_STATUS: Message = Message {
    name: "core.v1.NamespaceStatus",
    fields: &[
        one(1, "phase", Kind::Text),
        many(2, "conditions", Kind::Message(&CORE_V1_NAMESPACE_CONDITION)).merged("type"),
    ],
};

static CORE_V1_NODE: Message = Message {
    name: "core.v1.Node",
    fields: &[
        one(1, "metadata", Kind::Message(&META_V1_OBJECT_META)),
        one(2, "spec", Kind::Message(&CORE_V1_NODE_SPEC)),
        one(3, "status", Kind::Message(&CORE_V1_NODE_STATUS)),
    ],
};

static CORE_V1_NODE_ADDRESS: Message = Message {
    name: "core.v1.NodeAddress",
    fields: &[one(1, "type", Kind::Text), one(2, "address", Kind::Text)],
};

static CORE_V1_NODE_AFFINITY: Message = Message {
    name: "core.v1.NodeAffinity",
    fields: &[
        one(
            1,
            "requiredDuringSchedulingIgnoredDuringExecution",
            Kind::Message(&CORE_V1_NODE_SELECTOR),
        ),
        many(
            2,
            "preferredDuringSchedulingIgnoredDuringExecution",
            Kind::Message(&CORE_V1_PREFERRED_SCHEDULING_TERM),
        ),
    ],
};

static CORE_V1_NODE_ALLOCATABLE_RESOURCE_CLAIM_STATUS: Message = Message {
    name: "core.v1.NodeAllocatableResourceClaimStatus",
    fields: &[
        one(1, "resourceClaimName", Kind::Text),
        many(2, "containers", Kind::Text),
        map(3, "resources", Kind::Quantity),
    ],
};

static CORE_V1_NODE_CONDITION: Message = Message {
    name: "core.v1.NodeCondition",
    fields: &[
        one(1, "type", Kind::Text),
        one(2, "status", Kind::Text),
        one(3, "lastHeartbeatTime", Kind::Time),
        one(4, "lastTransitionTime", Kind::Time),
        one(5, "reason", Kind::Text),
        one(6, "message", Kind::Text),
    ],
};

static CORE_V1_NODE_CONFIG_SOURCE: Message = Message {
    name: "core.v1.NodeConfigSource",
    fields: &[one(
        2,
        "configMap",
        Kind::Message(&CORE_V1_CONFIG_MAP_NODE_CONFIG_SOURCE),
    )],
};

static CORE_V1_NODE_CONFIG_STATUS: Message = Message {
    name: "core.v1.NodeConfigStatus",
    fields: &[
        one(1, "assigned", Kind::Message(&CORE_V1_NODE_CONFIG_SOURCE)),
        one(2, "active", Kind::Message(&CORE_V1_NODE_CONFIG_SOURCE)),
        one(3, "lastKnownGood", Kind::Message(&CORE_V1_NODE_CONFIG_SOURCE)),
        one(4, "error", Kind::Text),
    ],
};

static CORE_V1_NODE_DAEMON_ENDPOINTS: Message = Message {
    name: "core.v1.NodeDaemonEndpoints",
    fields: &[one(1, "kubeletEndpoint", Kind::Message(&CORE_V1_DAEMON_ENDPOINT))],
};

static CORE_V1_NODE_FEATURES: Message = Message {
    name: "core.v1.NodeFeatures",
    fields: &[one(1, "supplementalGroupsPolicy", Kind::Boolean)],
};

static CORE_V1_NODE_RUNTIME_HANDLER: Message = Message {
    name: "core.v1.NodeRuntimeHandler",
    fields: &[
        one(1, "name", Kind::Text),
        one(2, "features", Kind::Message(&CORE_V1_NODE_RUNTIME_HANDLER_FEATURES)),
    ],
};

static CORE_V1_NODE_RUNTIME_HANDLER_FEATURES: Message = Message {
    name: "core.v1.NodeRuntimeHandlerFeatures",
    fields: &[
        one(1, "recursiveReadOnlyMounts", Kind::Boolean),
        one(2, "userNamespaces", Kind::Boolean),
    ],
};

static CORE_V1_NODE_SELECTOR: Message = Message {
    name: "core.v1.NodeSelector",
    fields: &[many(1, "nodeSelectorTerms", Kind::Message(&CORE_V1_NODE_SELECTOR_TERM))],
};

static CORE_V1_NODE_SELECTOR_REQUIREMENT: Message = Message {
    name: "core.v1.NodeSelectorRequirement",
    fields: &[
        one(1, "key", Kind::Text),
        one(2, "operator", Kind::Text),
        many(3, "values", Kind::Text),
    ],
};

static CORE_V1_NODE_SELECTOR_TERM: Message = Message {
    name: "core.v1.NodeSelectorTerm",
    fields: &[
        many(1, "matchExpressions", Kind::Message(&CORE_V1_NODE_SELECTOR_REQUIREMENT)),
        many(2, "matchFields", Kind::Message(&CORE_V1_NODE_SELECTOR_REQUIREMENT)),
    ],
};

static CORE_V1_NODE_SPEC: Message = Message {
    name: "core.v1.NodeSpec",
    fields: &[
        one(1, "podCIDR", Kind::Text),
        one(2, "externalID", Kind::Text),
        one(3, "providerID", Kind::Text),
        one(4, "unschedulable", Kind::Boolean).plain(),
        many(5, "taints", Kind::Message(&CORE_V1_TAINT)),
        one(6, "configSource", Kind::Message(&CORE_V1_NODE_CONFIG_SOURCE)),
        many(7, "podCIDRs", Kind::Text).merged(""),
    ],
};

static CORE_V1_NODE_STATUS: Message = Message {
    name: "core.v1.NodeStatus",
    fields: &[
        map(1, "capacity", Kind::Quantity),
        map(2, "allocatable", Kind::Quantity),
        one(3, "phase", Kind::Text),
        many(4, "conditions", Kind::Message(&CORE_V1_NODE_CONDITION)).merged("type"),
        many(5, "addresses", Kind::Message(&CORE_V1_NODE_ADDRESS)).merged("type"),
        one(6, "daemonEndpoints", Kind::Message(&CORE_V1_NODE_DAEMON_ENDPOINTS)),
        one(7, "nodeInfo", Kind::Message(&CORE_V1_NODE_SYSTEM_INFO)),
        many(8, "images", Kind::Message(&CORE_V1_CONTAINER_IMAGE)),
        many(9, "volumesInUse", Kind::Text),
        many(10, "volumesAttached", Kind::Message(&CORE_V1_ATTACHED_VOLUME)),
        one(11, "config", Kind::Message(&CORE_V1_NODE_CONFIG_STATUS)),
        many(12, "runtimeHandlers", Kind::Message(&CORE_V1_NODE_RUNTIME_HANDLER)),
        one(13, "features", Kind::Message(&CORE_V1_NODE_FEATURES)),
        many(14, "declaredFeatures", Kind::Text),
    ],
};

static CORE_V1_NODE_SWAP_STATUS: Message = Message {
    name: "core.v1.NodeSwapStatus",
    fields: &[one(1, "capacity", Kind::Integer)],
};

static CORE_V1_NODE_SYSTEM_INFO: Message = Message {
    name: "core.v1.NodeSystemInfo",
    fields: &[
        one(1, "machineID", Kind::Text),
        one(2, "systemUUID", Kind::Text),
        one(3, "bootID", Kind::Text),
        one(4, "kernelVersion", Kind::Text),
        one(5, "osImage", Kind::Text),
        one(6, "containerRuntimeVersion", Kind::Text),
        one(7, "kubeletVersion", Kind::Text),
        one(8, "kubeProxyVersion", Kind::Text),
        one(9, "operatingSystem", Kind::Text),
        one(10, "architecture", Kind::Text),
        one(11, "swap", Kind::Message(&CORE_V1_NODE_SWAP_STATUS)),
    ],
};

static CORE_V1_OBJECT_FIELD_SELECTOR: Message = Message {
    name: "core.v1.ObjectFieldSelector",
    fields: &[one(1, "apiVersion", Kind::Text), one(2, "fieldPath", Kind::Text)],
};

static CORE_V1_OBJECT_REFERENCE: Message = Message {
    name: "core.v1.ObjectReference",
    fields: &[
        one(1, "kind", Kind::Text),
        one(2, "namespace", Kind::Text),
        one(3, "name", Kind::Text),
        one(4, "uid", Kind::Text),
        one(5, "apiVersion", Kind::Text),
        one(6, "resourceVersion", Kind::Text),
        one(7, "fieldPath", Kind::Text),
    ],
};

static CORE_V1_PERSISTENT_VOLUME_CLAIM: Message = Message {
    name: "core.v1.PersistentVolumeClaim",
    fields: &[
        one(1, "metadata", Kind::Message(&META_V1_OBJECT_META)),
        one(2, "spec", Kind::Message(&CORE_V1_PERSISTENT_VOLUME_CLAIM_SPEC)),
        one(3, "status", Kind::Message(&CORE_V1_PERSISTENT_VOLUME_CLAIM_STATUS)),
    ],
};

static CORE_V1_PERSISTENT_VOLUME_CLAIM_CONDITION: Message = Message {
    name: "core.v1.PersistentVolumeClaimCondition",
    fields: &[
        one(1, "type", Kind::Text),
        one(2, "status", Kind::Text),
        one(3, "lastProbeTime", Kind::Time),
        one(4, "lastTransitionTime", Kind::Time),
        one(5, "reason", Kind::Text),
        one(6, "message", Kind::Text),
    ],
};

static CORE_V1_PERSISTENT_VOLUME_CLAIM_SPEC: Message = Message {
    name: "core.v1.PersistentVolumeClaimSpec",
    fields: &[
        many(1, "accessModes", Kind::Text),
        one(2, "resources", Kind::Message(&CORE_V1_VOLUME_RESOURCE_REQUIREMENTS)),
        one(3, "volumeName", Kind::Text),
        one(4, "selector", Kind::Message(&META_V1_LABEL_SELECTOR)),
        one(5, "storageClassName", Kind::Text),
        one(6, "volumeMode", Kind::Text),
        one(7, "dataSource", Kind::Message(&CORE_V1_TYPED_LOCAL_OBJECT_REFERENCE)),
        one(8, "dataSourceRef", Kind::Message(&CORE_V1_TYPED_OBJECT_REFERENCE)),
        one(9, "volumeAttributesClassName", Kind::Text),
    ],
};

static CORE_V1_PERSISTENT_VOLUME_CLAIM_STATUS: Message = Message {
    name: "core.v1.PersistentVolumeClaimStatus",
    fields: &[
        one(1, "phase", Kind::Text),
        many(2, "accessModes", Kind::Text),
        map(3, "capacity", Kind::Quantity),
        many(
            4,
            "conditions",
            Kind::Message(&CORE_V1_PERSISTENT_VOLUME_CLAIM_CONDITION),
        )
        .merged("type"),
        map(5, "allocatedResources", Kind::Quantity),
        map(7, "allocatedResourceStatuses", Kind::Text),
        one(8, "currentVolumeAttributesClassName", Kind::Text),
        one(9, "modifyVolumeStatus", Kind::Message(&CORE_V1_MODIFY_VOLUME_STATUS)),
    ],
};

static CORE_V1_PERSISTENT_VOLUME_CLAIM_TEMPLATE: Message = Message {
    name: "core.v1.PersistentVolumeClaimTemplate",
    fields: &[
        one(1, "metadata", Kind::Message(&META_V1_OBJECT_META)),
        one(2, "spec", Kind::Message(&CORE_V1_PERSISTENT_VOLUME_CLAIM_SPEC)),
    ],
};

static CORE_V1_PERSISTENT_VOLUME_CLAIM_VOLUME_SOURCE: Message = Message {
    name: "core.v1.PersistentVolumeClaimVolumeSource",
    fields: &[
        one(1, "claimName", Kind::Text),
        one(2, "readOnly", Kind::Boolean).plain(),
    ],
};

static CORE_V1_PHOTON_PERSISTENT_DISK_VOLUME_SOURCE: Message = Message {
    name: "core.v1.PhotonPersistentDiskVolumeSource",
    fields: &[one(1, "pdID", Kind::Text), one(2, "fsType", Kind::Text)],
};

static CORE_V1_POD: Message = Message {
    name: "core.v1.Pod",
    fields: &[
        one(1, "metadata", Kind::Message(&META_V1_OBJECT_META)),
        one(2, "spec", Kind::Message(&CORE_V1_POD_SPEC)),
        one(3, "status", Kind::Message(&CORE_V1_POD_STATUS)),
    ],
};

static CORE_V1_POD_AFFINITY: Message = Message {
    name: "core.v1.PodAffinity",
    fields: &[
        many(
            1,
            "requiredDuringSchedulingIgnoredDuringExecution",
            Kind::Message(&CORE_V1_POD_AFFINITY_TERM),
        ),
        many(
            2,
            "preferredDuringSchedulingIgnoredDuringExecution",
            Kind::Message(&CORE_V1_WEIGHTED_POD_AFFINITY_TERM),
        ),
    ],
};

static CORE_V1_POD_AFFINITY_TERM: Message = Message {
    name: "core.v1.PodAffinityTerm",
    fields: &[
        one(1, "labelSelector", Kind::Message(&META_V1_LABEL_SELECTOR)),
        many(2, "namespaces", Kind::Text),
        one(3, "topologyKey", Kind::Text),
        one(4, "namespaceSelector", Kind::Message(&META_V1_LABEL_SELECTOR)),
        many(5, "matchLabelKeys", Kind::Text),
        many(6, "mismatchLabelKeys", Kind::Text),
    ],
};

static CORE_V1_POD_ANTI_AFFINITY: Message = Message {
    name: "core.v1.PodAntiAffinity",
    fields: &[
        many(
            1,
            "requiredDuringSchedulingIgnoredDuringExecution",
            Kind::Message(&CORE_V1_POD_AFFINITY_TERM),
        ),
        many(
            2,
            "preferredDuringSchedulingIgnoredDuringExecution",
            Kind::Message(&CORE_V1_WEIGHTED_POD_AFFINITY_TERM),
        ),
    ],
};

static CORE_V1_POD_CERTIFICATE_PROJECTION: Message = Message {
    name: "core.v1.PodCertificateProjection",
    fields: &[
        one(1, "signerName", Kind::Text),
        one(2, "keyType", Kind::Text),
        one(3, "maxExpirationSeconds", Kind::Integer),
        one(4, "credentialBundlePath", Kind::Text),
        one(5, "keyPath", Kind::Text),
        one(6, "certificateChainPath", Kind::Text),
        map(7, "userAnnotations", Kind::Text),
    ],
};

static CORE_V1_POD_CONDITION: Message = Message {
    name: "core.v1.PodCondition",
    fields: &[
        one(1, "type", Kind::Text),
        one(2, "status", Kind::Text),
        one(3, "lastProbeTime", Kind::Time),
        one(4, "lastTransitionTime", Kind::Time),
        one(5, "reason", Kind::Text),
        one(6, "message", Kind::Text),
        one(7, "observedGeneration", Kind::Integer).plain(),
    ],
};

static CORE_V1_POD_DNS_CONFIG: Message = Message {
    name: "core.v1.PodDNSConfig",
    fields: &[
        many(1, "nameservers", Kind::Text),
        many(2, "searches", Kind::Text),
        many(3, "options", Kind::Message(&CORE_V1_POD_DNS_CONFIG_OPTION)),
    ],
};

static CORE_V1_POD_DNS_CONFIG_OPTION: Message = Message {
    name: "core.v1.PodDNSConfigOption",
    fields: &[one(1, "name", Kind::Text), one(2, "value", Kind::Text)],
};

static CORE_V1_POD_EXTENDED_RESOURCE_CLAIM_STATUS: Message = Message {
    name: "core.v1.PodExtendedResourceClaimStatus",
    fields: &[
        many(
            1,
            "requestMappings",
            Kind::Message(&CORE_V1_CONTAINER_EXTENDED_RESOURCE_REQUEST),
        ),
        one(2, "resourceClaimName", Kind::Text),
    ],
};

static CORE_V1_POD_IP: Message = Message {
    name: "core.v1.PodIP",
    fields: &[one(1, "ip", Kind::Text)],
};

static CORE_V1_POD_OS: Message = Message {
    name: "core.v1.PodOS",
    fields: &[one(1, "name", Kind::Text)],
};

static CORE_V1_POD_READINESS_GATE: Message = Message {
    name: "core.v1.PodReadinessGate",
    fields: &[one(1, "conditionType", Kind::Text)],
};

static CORE_V1_POD_RESOURCE_CLAIM: Message = Message {
    name: "core.v1.PodResourceClaim",
    fields: &[
        one(1, "name", Kind::Text),
        one(3, "resourceClaimName", Kind::Text),
        one(4, "resourceClaimTemplateName", Kind::Text),
    ],
};

static CORE_V1_POD_RESOURCE_CLAIM_STATUS: Message = Message {
    name: "core.v1.PodResourceClaimStatus",
    fields: &[one(1, "name", Kind::Text), one(2, "resourceClaimName", Kind::Text)],
};

static CORE_V1_POD_SCHEDULING_GATE: Message = Message {
    name: "core.v1.PodSchedulingGate",
    fields: &[one(1, "name", Kind::Text)],
};

static CORE_V1_POD_SCHEDULING_GROUP: Message = Message {
    name: "core.v1.PodSchedulingGroup",
    fields: &[one(1, "podGroupName", Kind::Text)],
};

static CORE_V1_POD_SECURITY_CONTEXT: Message = Message {
    name: "core.v1.PodSecurityContext",
    fields: &[
        one(1, "seLinuxOptions", Kind::Message(&CORE_V1_SE_LINUX_OPTIONS)),
        one(2, "runAsUser", Kind::Integer),
        one(3, "runAsNonRoot", Kind::Boolean),
        many(4, "supplementalGroups", Kind::Integer),
        one(5, "fsGroup", Kind::Integer),
        one(6, "runAsGroup", Kind::Integer),
        many(7, "sysctls", Kind::Message(&CORE_V1_SYSCTL)),
        one(
            8,
            "windowsOptions",
            Kind::Message(&CORE_V1_WINDOWS_SECURITY_CONTEXT_OPTIONS),
        ),
        one(9, "fsGroupChangePolicy", Kind::Text),
        one(10, "seccompProfile", Kind::Message(&CORE_V1_SECCOMP_PROFILE)),
        one(11, "appArmorProfile", Kind::Message(&CORE_V1_APP_ARMOR_PROFILE)),
        one(12, "supplementalGroupsPolicy", Kind::Text),
        one(13, "seLinuxChangePolicy", Kind::Text),
    ],
};

static CORE_V1_POD_SPEC: Message = Message {
    name: "core.v1.PodSpec",
    fields: &[
        many(1, "volumes", Kind::Message(&CORE_V1_VOLUME)).merged("name"),
        many(2, "containers", Kind::Message(&CORE_V1_CONTAINER)).merged("name"),
        one(3, "restartPolicy", Kind::Text),
        one(4, "terminationGracePeriodSeconds", Kind::Integer),
        one(5, "activeDeadlineSeconds", Kind::Integer),
        one(6, "dnsPolicy", Kind::Text),
        map(7, "nodeSelector", Kind::Text),
        one(8, "serviceAccountName", Kind::Text),
        one(9, "serviceAccount", Kind::Text),
        one(10, "nodeName", Kind::Text),
        one(11, "hostNetwork", Kind::Boolean).plain(),
        one(12, "hostPID", Kind::Boolean).plain(),
        one(13, "hostIPC", Kind::Boolean).plain(),
        one(14, "securityContext", Kind::Message(&CORE_V1_POD_SECURITY_CONTEXT)),
        many(15, "imagePullSecrets", Kind::Message(&CORE_V1_LOCAL_OBJECT_REFERENCE)).merged("name"),
        one(16, "hostname", Kind::Text),
        one(17, "subdomain", Kind::Text),
        one(18, "affinity", Kind::Message(&CORE_V1_AFFINITY)),
        one(19, "schedulerName", Kind::Text),
        many(20, "initContainers", Kind::Message(&CORE_V1_CONTAINER)).merged("name"),
        one(21, "automountServiceAccountToken", Kind::Boolean),
        many(22, "tolerations", Kind::Message(&CORE_V1_TOLERATION)),
        many(23, "hostAliases", Kind::Message(&CORE_V1_HOST_ALIAS)).merged("ip"),
        one(24, "priorityClassName", Kind::Text),
        one(25, "priority", Kind::Integer),
        one(26, "dnsConfig", Kind::Message(&CORE_V1_POD_DNS_CONFIG)),
        one(27, "shareProcessNamespace", Kind::Boolean),
        many(28, "readinessGates", Kind::Message(&CORE_V1_POD_READINESS_GATE)),
        one(29, "runtimeClassName", Kind::Text),
        one(30, "enableServiceLinks", Kind::Boolean),
        one(31, "preemptionPolicy", Kind::Text),
        map(32, "overhead", Kind::Quantity),
        many(
            33,
            "topologySpreadConstraints",
            Kind::Message(&CORE_V1_TOPOLOGY_SPREAD_CONSTRAINT),
        )
        .merged("topologyKey"),
        many(34, "ephemeralContainers", Kind::Message(&CORE_V1_EPHEMERAL_CONTAINER)).merged("name"),
        one(35, "setHostnameAsFQDN", Kind::Boolean),
        one(36, "os", Kind::Message(&CORE_V1_POD_OS)),
        one(37, "hostUsers", Kind::Boolean),
        many(38, "schedulingGates", Kind::Message(&CORE_V1_POD_SCHEDULING_GATE)).merged("name"),
        many(39, "resourceClaims", Kind::Message(&CORE_V1_POD_RESOURCE_CLAIM)).merged("name"),
        one(40, "resources", Kind::Message(&CORE_V1_RESOURCE_REQUIREMENTS)),
        one(41, "hostnameOverride", Kind::Text),
        one(43, "schedulingGroup", Kind::Message(&CORE_V1_POD_SCHEDULING_GROUP)),
    ],
};

static CORE_V1_POD_STATUS: Message = Message {
    name: "core.v1.PodStatus",
    fields: &[
        one(1, "phase", Kind::Text),
        many(2, "conditions", Kind::Message(&CORE_V1_POD_CONDITION)).merged("type"),
        one(3, "message", Kind::Text),
        one(4, "reason", Kind::Text),
        one(5, "hostIP", Kind::Text),
        one(6, "podIP", Kind::Text),
        one(7, "startTime", Kind::Time),
        many(8, "containerStatuses", Kind::Message(&CORE_V1_CONTAINER_STATUS)),
        one(9, "qosClass", Kind::Text),
        many(10, "initContainerStatuses", Kind::Message(&CORE_V1_CONTAINER_STATUS)),
        one(11, "nominatedNodeName", Kind::Text),
        many(12, "podIPs", Kind::Message(&CORE_V1_POD_IP)).merged("ip"),
        many(
            13,
            "ephemeralContainerStatuses",
            Kind::Message(&CORE_V1_CONTAINER_STATUS),
        ),
        one(14, "resize", Kind::Text),
        many(
            15,
            "resourceClaimStatuses",
            Kind::Message(&CORE_V1_POD_RESOURCE_CLAIM_STATUS),
        )
        .merged("name"),
        many(16, "hostIPs", Kind::Message(&CORE_V1_HOST_IP)).merged("ip"),
        one(17, "observedGeneration", Kind::Integer).plain(),
        one(
            18,
            "extendedResourceClaimStatus",
            Kind::Message(&CORE_V1_POD_EXTENDED_RESOURCE_CLAIM_STATUS),
        ),
        map(19, "allocatedResources", Kind::Quantity),
        one(20, "resources", Kind::Message(&CORE_V1_RESOURCE_REQUIREMENTS)),
        many(
            21,
            "nodeAllocatableResourceClaimStatuses",
            Kind::Message(&CORE_V1_NODE_ALLOCATABLE_RESOURCE_CLAIM_STATUS),
        ),
    ],
};

static CORE_V1_POD_TEMPLATE: Message = Message {
    name: "core.v1.PodTemplate",
    fields: &[
        one(1, "metadata", Kind::Message(&META_V1_OBJECT_META)),
        one(2, "template", Kind::Message(&CORE_V1_POD_TEMPLATE_SPEC)),
    ],
};

static CORE_V1_POD_TEMPLATE_SPEC: Message = Message {
    name: "core.v1.PodTemplateSpec",
    fields: &[
        one(1, "metadata", Kind::Message(&META_V1_OBJECT_META)),
        one(2, "spec", Kind::Message(&CORE_V1_POD_SPEC)),
    ],
};

static CORE_V1_PORT_STATUS: Message = Message {
    name: "core.v1.PortStatus",
    fields: &[
        one(1, "port", Kind::Integer),
        one(2, "protocol", Kind::Text),
        one(3, "error", Kind::Text),
    ],
};

static CORE_V1_PORTWORX_VOLUME_SOURCE: Message = Message {
    name: "core.v1.PortworxVolumeSource",
    fields: &[
        one(1, "volumeID", Kind::Text),
        one(2, "fsType", Kind::Text),
        one(3, "readOnly", Kind::Boolean).plain(),
    ],
};

static CORE_V1_PREFERRED_SCHEDULING_TERM: Message = Message {
    name: "core.v1.PreferredSchedulingTerm",
    fields: &[
        one(1, "weight", Kind::Integer),
        one(2, "preference", Kind::Message(&CORE_V1_NODE_SELECTOR_TERM)),
    ],
};

static CORE_V1_PROBE: Message = Message {
    name: "core.v1.Probe",
    fields: &[
        one(1, "", Kind::Inline(&CORE_V1_PROBE_HANDLER)),
        one(2, "initialDelaySeconds", Kind::Integer).plain(),
        one(3, "timeoutSeconds", Kind::Integer).plain(),
        one(4, "periodSeconds", Kind::Integer).plain(),
        one(5, "successThreshold", Kind::Integer).plain(),
        one(6, "failureThreshold", Kind::Integer).plain(),
        one(7, "terminationGracePeriodSeconds", Kind::Integer),
    ],
};

static CORE_V1_PROBE_HANDLER: Message = Message {
    name: "core.v1.ProbeHandler",
    fields: &[
        one(1, "exec", Kind::Message(&CORE_V1_EXEC_ACTION)),
        one(2, "httpGet", Kind::Message(&CORE_V1_HTTP_GET_ACTION)),
        one(3, "tcpSocket", Kind::Message(&CORE_V1_TCP_SOCKET_ACTION)),
        one(4, "grpc", Kind::Message(&CORE_V1_GRPC_ACTION)),
    ],
};

static CORE_V1_PROJECTED_VOLUME_SOURCE: Message = Message {
    name: "core.v1.ProjectedVolumeSource",
    fields: &[
        many(1, "sources", Kind::Message(&CORE_V1_VOLUME_PROJECTION)),
        one(2, "defaultMode", Kind::Integer),
    ],
};

static CORE_V1_QUOBYTE_VOLUME_SOURCE: Message = Message {
    name: "core.v1.QuobyteVolumeSource",
    fields: &[
        one(1, "registry", Kind::Text),
        one(2, "volume", Kind::Text),
        one(3, "readOnly", Kind::Boolean).plain(),
        one(4, "user", Kind::Text),
        one(5, "group", Kind::Text),
        one(6, "tenant", Kind::Text),
    ],
};

static CORE_V1_RBD_VOLUME_SOURCE: Message = Message {
    name: "core.v1.RBDVolumeSource",
    fields: &[
        many(1, "monitors", Kind::Text),
        one(2, "image", Kind::Text),
        one(3, "fsType", Kind::Text),
        one(4, "pool", Kind::Text),
        one(5, "user", Kind::Text),
        one(6, "keyring", Kind::Text),
        one(7, "secretRef", Kind::Message(&CORE_V1_LOCAL_OBJECT_REFERENCE)),
        one(8, "readOnly", Kind::Boolean).plain(),
    ],
};

static CORE_V1_REPLICATION_CONTROLLER: Message = Message {
    name: "core.v1.ReplicationController",
    fields: &[
        one(1, "metadata", Kind::Message(&META_V1_OBJECT_META)),
        one(2, "spec", Kind::Message(&CORE_V1_REPLICATION_CONTROLLER_SPEC)),
        one(3, "status", Kind::Message(&CORE_V1_REPLICATION_CONTROLLER_STATUS)),
    ],
};

static CORE_V1_REPLICATION_CONTROLLER_CONDITION: Message = Message {
    name: "core.v1.ReplicationControllerCondition",
    fields: &[
        one(1, "type", Kind::Text),
        one(2, "status", Kind::Text),
        one(3, "lastTransitionTime", Kind::Time),
        one(4, "reason", Kind::Text),
        one(5, "message", Kind::Text),
    ],
};

static CORE_V1_REPLICATION_CONTROLLER_SPEC: Message = Message {
    name: "core.v1.ReplicationControllerSpec",
    fields: &[
        one(1, "replicas", Kind::Integer),
        map(2, "selector", Kind::Text),
        one(3, "template", Kind::Message(&CORE_V1_POD_TEMPLATE_SPEC)),
        one(4, "minReadySeconds", Kind::Integer).plain(),
    ],
};

static CORE_V1_REPLICATION_CONTROLLER_STATUS: Message = Message {
    name: "core.v1.ReplicationControllerStatus",
    fields: &[
        one(1, "replicas", Kind::Integer),
        one(2, "fullyLabeledReplicas", Kind::Integer),
        one(3, "observedGeneration", Kind::Integer),
        one(4, "readyReplicas", Kind::Integer),
        one(5, "availableReplicas", Kind::Integer),
        many(
            6,
            "conditions",
            Kind::Message(&CORE_V1_REPLICATION_CONTROLLER_CONDITION),
        )
        .merged("type"),
    ],
};

static CORE_V1_RESOURCE_CLAIM: Message = Message {
    name: "core.v1.ResourceClaim",
    fields: &[one(1, "name", Kind::Text), one(2, "request", Kind::Text)],
};

static CORE_V1_RESOURCE_FIELD_SELECTOR: Message = Message {
    name: "core.v1.ResourceFieldSelector",
    fields: &[
        one(1, "containerName", Kind::Text),
        one(2, "resource", Kind::Text),
        one(3, "divisor", Kind::Quantity),
    ],
};

static CORE_V1_RESOURCE_HEALTH: Message = Message {
    name: "core.v1.ResourceHealth",
    fields: &[
        one(1, "resourceID", Kind::Text),
        one(2, "health", Kind::Text),
        one(6, "message", Kind::Text),
    ],
};

static CORE_V1_RESOURCE_REQUIREMENTS: Message = Message {
    name: "core.v1.ResourceRequirements",
    fields: &[
        map(1, "limits", Kind::Quantity),
        map(2, "requests", Kind::Quantity),
        many(3, "claims", Kind::Message(&CORE_V1_RESOURCE_CLAIM)),
    ],
};

static CORE_V1_RESOURCE_STATUS: Message = Message {
    name: "core.v1.ResourceStatus",
    fields: &[
        one(1, "name", Kind::Text),
        many(2, "resources", Kind::Message(&CORE_V1_RESOURCE_HEALTH)),
    ],
};

static CORE_V1_SE_LINUX_OPTIONS: Message = Message {
    name: "core.v1.SELinuxOptions",
    fields: &[
        one(1, "user", Kind::Text),
        one(2, "role", Kind::Text),
        one(3, "type", Kind::Text),
        one(4, "level", Kind::Text),
    ],
};

static CORE_V1_SCALE_IO_VOLUME_SOURCE: Message = Message {
    name: "core.v1.ScaleIOVolumeSource",
    fields: &[
        one(1, "gateway", Kind::Text),
        one(2, "system", Kind::Text),
        one(3, "secretRef", Kind::Message(&CORE_V1_LOCAL_OBJECT_REFERENCE)),
        one(4, "sslEnabled", Kind::Boolean).plain(),
        one(5, "protectionDomain", Kind::Text),
        one(6, "storagePool", Kind::Text),
        one(7, "storageMode", Kind::Text),
        one(8, "volumeName", Kind::Text),
        one(9, "fsType", Kind::Text),
        one(10, "readOnly", Kind::Boolean).plain(),
    ],
};

static CORE_V1_SECCOMP_PROFILE: Message = Message {
    name: "core.v1.SeccompProfile",
    fields: &[one(1, "type", Kind::Text), one(2, "localhostProfile", Kind::Text)],
};

static CORE_V1_SECRET: Message = Message {
    name: "core.v1.Secret",
    fields: &[
        one(1, "metadata", Kind::Message(&META_V1_OBJECT_META)),
        map(2, "data", Kind::Bytes),
        one(3, "type", Kind::Text),
        map(4, "stringData", Kind::Text),
        one(5, "immutable", Kind::Boolean),
    ],
};

static CORE_V1_SECRET_ENV_SOURCE: Message = Message {
    name: "core.v1.SecretEnvSource",
    fields: &[
        one(1, "", Kind::Inline(&CORE_V1_LOCAL_OBJECT_REFERENCE)),
        one(2, "optional", Kind::Boolean),
    ],
};

static CORE_V1_SECRET_KEY_SELECTOR: Message = Message {
    name: "core.v1.SecretKeySelector",
    fields: &[
        one(1, "", Kind::Inline(&CORE_V1_LOCAL_OBJECT_REFERENCE)),
        one(2, "key", Kind::Text),
        one(3, "optional", Kind::Boolean),
    ],
};

static CORE_V1_SECRET_PROJECTION: Message = Message {
    name: "core.v1.SecretProjection",
    fields: &[
        one(1, "", Kind::Inline(&CORE_V1_LOCAL_OBJECT_REFERENCE)),
        many(2, "items", Kind::Message(&CORE_V1_KEY_TO_PATH)),
        one(4, "optional", Kind::Boolean),
    ],
};

static CORE_V1_SECRET_VOLUME_SOURCE: Message = Message {
    name: "core.v1.SecretVolumeSource",
    fields: &[
        one(1, "secretName", Kind::Text),
        many(2, "items", Kind::Message(&CORE_V1_KEY_TO_PATH)),
        one(3, "defaultMode", Kind::Integer),
        one(4, "optional", Kind::Boolean),
    ],
};

static CORE_V1_SECURITY_CONTEXT: Message = Message {
    name: "core.v1.SecurityContext",
    fields: &[
        one(1, "capabilities", Kind::Message(&CORE_V1_CAPABILITIES)),
        one(2, "privileged", Kind::Boolean),
        one(3, "seLinuxOptions", Kind::Message(&CORE_V1_SE_LINUX_OPTIONS)),
        one(4, "runAsUser", Kind::Integer),
        one(5, "runAsNonRoot", Kind::Boolean),
        one(6, "readOnlyRootFilesystem", Kind::Boolean),
        one(7, "allowPrivilegeEscalation", Kind::Boolean),
        one(8, "runAsGroup", Kind::Integer),
        one(9, "procMount", Kind::Text),
        one(
            10,
            "windowsOptions",
            Kind::Message(&CORE_V1_WINDOWS_SECURITY_CONTEXT_OPTIONS),
        ),
        one(11, "seccompProfile", Kind::Message(&CORE_V1_SECCOMP_PROFILE)),
        one(12, "appArmorProfile", Kind::Message(&CORE_V1_APP_ARMOR_PROFILE)),
    ],
};

static CORE_V1_SERVICE: Message = Message {
    name: "core.v1.Service",
    fields: &[
        one(1, "metadata", Kind::Message(&META_V1_OBJECT_META)),
        one(2, "spec", Kind::Message(&CORE_V1_SERVICE_SPEC)),
        one(3, "status", Kind::Message(&CORE_V1_SERVICE_STATUS)),
    ],
};

static CORE_V1_SERVICE_ACCOUNT: Message = Message {
    name: "core.v1.ServiceAccount",
    fields: &[
        one(1, "metadata", Kind::Message(&META_V1_OBJECT_META)),
        many(2, "secrets", Kind::Message(&CORE_V1_OBJECT_REFERENCE)).merged("name"),
        many(3, "imagePullSecrets", Kind::Message(&CORE_V1_LOCAL_OBJECT_REFERENCE)),
        one(4, "automountServiceAccountToken", Kind::Boolean),
    ],
};

static CORE_V1_SERVICE_ACCOUNT_TOKEN_PROJECTION: Message = Message {
    name: "core.v1.ServiceAccountTokenProjection",
    fields: &[
        one(1, "audience", Kind::Text),
        one(2, "expirationSeconds", Kind::Integer),
        one(3, "path", Kind::Text),
    ],
};

static CORE_V1_SERVICE_PORT: Message = Message {
    name: "core.v1.ServicePort",
    fields: &[
        one(1, "name", Kind::Text),
        one(2, "protocol", Kind::Text),
        one(3, "port", Kind::Integer),
        one(4, "targetPort", Kind::IntOrText),
        one(5, "nodePort", Kind::Integer).plain(),
        one(6, "appProtocol", Kind::Text),
    ],
};

static CORE_V1_SERVICE_SPEC: Message = Message {
    name: "core.v1.ServiceSpec",
    fields: &[
        many(1, "ports", Kind::Message(&CORE_V1_SERVICE_PORT)).merged("port"),
        map(2, "selector", Kind::Text),
        one(3, "clusterIP", Kind::Text),
        one(4, "type", Kind::Text),
        many(5, "externalIPs", Kind::Text),
        one(7, "sessionAffinity", Kind::Text),
        one(8, "loadBalancerIP", Kind::Text),
        many(9, "loadBalancerSourceRanges", Kind::Text),
        one(10, "externalName", Kind::Text),
        one(11, "externalTrafficPolicy", Kind::Text),
        one(12, "healthCheckNodePort", Kind::Integer).plain(),
        one(13, "publishNotReadyAddresses", Kind::Boolean).plain(),
        one(
            14,
            "sessionAffinityConfig",
            Kind::Message(&CORE_V1_SESSION_AFFINITY_CONFIG),
        ),
        one(17, "ipFamilyPolicy", Kind::Text),
        many(18, "clusterIPs", Kind::Text),
        many(19, "ipFamilies", Kind::Text),
        one(20, "allocateLoadBalancerNodePorts", Kind::Boolean),
        one(21, "loadBalancerClass", Kind::Text),
        one(22, "internalTrafficPolicy", Kind::Text),
        one(23, "trafficDistribution", Kind::Text),
    ],
};

static CORE_V1_SERVICE_STATUS: Message = Message {
    name: "core.v1.ServiceStatus",
    fields: &[
        one(1, "loadBalancer", Kind::Message(&CORE_V1_LOAD_BALANCER_STATUS)),
        many(2, "conditions", Kind::Message(&META_V1_CONDITION)).merged("type"),
    ],
};

static CORE_V1_SESSION_AFFINITY_CONFIG: Message = Message {
    name: "core.v1.SessionAffinityConfig",
    fields: &[one(1, "clientIP", Kind::Message(&CORE_V1_CLIENT_IP_CONFIG))],
};

static CORE_V1_SLEEP_ACTION: Message = Message {
    name: "core.v1.SleepAction",
    fields: &[one(1, "seconds", Kind::Integer)],
};

static CORE_V1_STORAGE_OS_VOLUME_SOURCE: Message = Message {
    name: "core.v1.StorageOSVolumeSource",
    fields: &[
        one(1, "volumeName", Kind::Text),
        one(2, "volumeNamespace", Kind::Text),
        one(3, "fsType", Kind::Text),
        one(4, "readOnly", Kind::Boolean).plain(),
        one(5, "secretRef", Kind::Message(&CORE_V1_LOCAL_OBJECT_REFERENCE)),
    ],
};

static CORE_V1_SYSCTL: Message = Message {
    name: "core.v1.Sysctl",
    fields: &[one(1, "name", Kind::Text), one(2, "value", Kind::Text)],
};

static CORE_V1_TCP_SOCKET_ACTION: Message = Message {
    name: "core.v1.TCPSocketAction",
    fields: &[one(1, "port", Kind::IntOrText), one(2, "host", Kind::Text)],
};

static CORE_V1_TAINT: Message = Message {
    name: "core.v1.Taint",
    fields: &[
        one(1, "key", Kind::Text),
        one(2, "value", Kind::Text),
        one(3, "effect", Kind::Text),
        one(4, "timeAdded", Kind::Time),
    ],
};

static CORE_V1_TOLERATION: Message = Message {
    name: "core.v1.Toleration",
    fields: &[
        one(1, "key", Kind::Text),
        one(2, "operator", Kind::Text),
        one(3, "value", Kind::Text),
        one(4, "effect", Kind::Text),
        one(5, "tolerationSeconds", Kind::Integer),
    ],
};

static CORE_V1_TOPOLOGY_SPREAD_CONSTRAINT: Message = Message {
    name: "core.v1.TopologySpreadConstraint",
    fields: &[
        one(1, "maxSkew", Kind::Integer),
        one(2, "topologyKey", Kind::Text),
        one(3, "whenUnsatisfiable", Kind::Text),
        one(4, "labelSelector", Kind::Message(&META_V1_LABEL_SELECTOR)),
        one(5, "minDomains", Kind::Integer),
        one(6, "nodeAffinityPolicy", Kind::Text),
        one(7, "nodeTaintsPolicy", Kind::Text),
        many(8, "matchLabelKeys", Kind::Text),
    ],
};

static CORE_V1_TYPED_LOCAL_OBJECT_REFERENCE: Message = Message {
    name: "core.v1.TypedLocalObjectReference",
    fields: &[
        one(1, "apiGroup", Kind::Text),
        one(2, "kind", Kind::Text),
        one(3, "name", Kind::Text),
    ],
};

static CORE_V1_TYPED_OBJECT_REFERENCE: Message = Message {
    name: "core.v1.TypedObjectReference",
    fields: &[
        one(1, "apiGroup", Kind::Text),
        one(2, "kind", Kind::Text),
        one(3, "name", Kind::Text),
        one(4, "namespace", Kind::Text),
    ],
};

static CORE_V1_VOLUME: Message = Message {
    name: "core.v1.Volume",
    fields: &[
        one(1, "name", Kind::Text),
        one(2, "", Kind::Inline(&CORE_V1_VOLUME_SOURCE)),
    ],
};

static CORE_V1_VOLUME_DEVICE: Message = Message {
    name: "core.v1.VolumeDevice",
    fields: &[one(1, "name", Kind::Text), one(2, "devicePath", Kind::Text)],
};

static CORE_V1_VOLUME_MOUNT: Message = Message {
    name: "core.v1.VolumeMount",
    fields: &[
        one(1, "name", Kind::Text),
        one(2, "readOnly", Kind::Boolean).plain(),
        one(3, "mountPath", Kind::Text),
        one(4, "subPath", Kind::Text),
        one(5, "mountPropagation", Kind::Text),
        one(6, "subPathExpr", Kind::Text),
        one(7, "recursiveReadOnly", Kind::Text),
    ],
};

static CORE_V1_VOLUME_MOUNT_STATUS: Message = Message {
    name: "core.v1.VolumeMountStatus",
    fields: &[
        one(1, "name", Kind::Text),
        one(2, "mountPath", Kind::Text),
        one(3, "readOnly", Kind::Boolean).plain(),
        one(4, "recursiveReadOnly", Kind::Text),
        one(5, "volumeStatus", Kind::Message(&CORE_V1_VOLUME_STATUS)),
    ],
};

static CORE_V1_VOLUME_PROJECTION: Message = Message {
    name: "core.v1.VolumeProjection",
    fields: &[
        one(1, "secret", Kind::Message(&CORE_V1_SECRET_PROJECTION)),
        one(2, "downwardAPI", Kind::Message(&CORE_V1_DOWNWARD_API_PROJECTION)),
        one(3, "configMap", Kind::Message(&CORE_V1_CONFIG_MAP_PROJECTION)),
        one(
            4,
            "serviceAccountToken",
            Kind::Message(&CORE_V1_SERVICE_ACCOUNT_TOKEN_PROJECTION),
        ),
        one(
            5,
            "clusterTrustBundle",
            Kind::Message(&CORE_V1_CLUSTER_TRUST_BUNDLE_PROJECTION),
        ),
        one(6, "podCertificate", Kind::Message(&CORE_V1_POD_CERTIFICATE_PROJECTION)),
    ],
};

static CORE_V1_VOLUME_RESOURCE_REQUIREMENTS: Message = Message {
    name: "core.v1.VolumeResourceRequirements",
    fields: &[map(1, "limits", Kind::Quantity), map(2, "requests", Kind::Quantity)],
};

static CORE_V1_VOLUME_SOURCE: Message = Message {
    name: "core.v1.VolumeSource",
    fields: &[
        one(1, "hostPath", Kind::Message(&CORE_V1_HOST_PATH_VOLUME_SOURCE)),
        one(2, "emptyDir", Kind::Message(&CORE_V1_EMPTY_DIR_VOLUME_SOURCE)),
        one(
            3,
            "gcePersistentDisk",
            Kind::Message(&CORE_V1_GCE_PERSISTENT_DISK_VOLUME_SOURCE),
        ),
        one(
            4,
            "awsElasticBlockStore",
            Kind::Message(&CORE_V1_AWS_ELASTIC_BLOCK_STORE_VOLUME_SOURCE),
        ),
        one(5, "gitRepo", Kind::Message(&CORE_V1_GIT_REPO_VOLUME_SOURCE)),
        one(6, "secret", Kind::Message(&CORE_V1_SECRET_VOLUME_SOURCE)),
        one(7, "nfs", Kind::Message(&CORE_V1_NFS_VOLUME_SOURCE)),
        one(8, "iscsi", Kind::Message(&CORE_V1_ISCSI_VOLUME_SOURCE)),
        one(9, "glusterfs", Kind::Message(&CORE_V1_GLUSTERFS_VOLUME_SOURCE)),
        one(
            10,
            "persistentVolumeClaim",
            Kind::Message(&CORE_V1_PERSISTENT_VOLUME_CLAIM_VOLUME_SOURCE),
        ),
        one(11, "rbd", Kind::Message(&CORE_V1_RBD_VOLUME_SOURCE)),
        one(12, "flexVolume", Kind::Message(&CORE_V1_FLEX_VOLUME_SOURCE)),
        one(13, "cinder", Kind::Message(&CORE_V1_CINDER_VOLUME_SOURCE)),
        one(14, "cephfs", Kind::Message(&CORE_V1_CEPH_FS_VOLUME_SOURCE)),
        one(15, "flocker", Kind::Message(&CORE_V1_FLOCKER_VOLUME_SOURCE)),
        one(16, "downwardAPI", Kind::Message(&CORE_V1_DOWNWARD_API_VOLUME_SOURCE)),
        one(17, "fc", Kind::Message(&CORE_V1_FC_VOLUME_SOURCE)),
        one(18, "azureFile", Kind::Message(&CORE_V1_AZURE_FILE_VOLUME_SOURCE)),
        one(19, "configMap", Kind::Message(&CORE_V1_CONFIG_MAP_VOLUME_SOURCE)),
        one(
            20,
            "vsphereVolume",
            Kind::Message(&CORE_V1_VSPHERE_VIRTUAL_DISK_VOLUME_SOURCE),
        ),
        one(21, "quobyte", Kind::Message(&CORE_V1_QUOBYTE_VOLUME_SOURCE)),
        one(22, "azureDisk", Kind::Message(&CORE_V1_AZURE_DISK_VOLUME_SOURCE)),
        one(
            23,
            "photonPersistentDisk",
            Kind::Message(&CORE_V1_PHOTON_PERSISTENT_DISK_VOLUME_SOURCE),
        ),
        one(24, "portworxVolume", Kind::Message(&CORE_V1_PORTWORX_VOLUME_SOURCE)),
        one(25, "scaleIO", Kind::Message(&CORE_V1_SCALE_IO_VOLUME_SOURCE)),
        one(26, "projected", Kind::Message(&CORE_V1_PROJECTED_VOLUME_SOURCE)),
        one(27, "storageos", Kind::Message(&CORE_V1_STORAGE_OS_VOLUME_SOURCE)),
        one(28, "csi", Kind::Message(&CORE_V1_CSI_VOLUME_SOURCE)),
        one(29, "ephemeral", Kind::Message(&CORE_V1_EPHEMERAL_VOLUME_SOURCE)),
        one(30, "image", Kind::Message(&CORE_V1_IMAGE_VOLUME_SOURCE)),
    ],
};

static CORE_V1_VOLUME_STATUS: Message = Message {
    name: "core.v1.VolumeStatus",
    fields: &[one(1, "image", Kind::Message(&CORE_V1_IMAGE_VOLUME_STATUS))],
};

static CORE_V1_VSPHERE_VIRTUAL_DISK_VOLUME_SOURCE: Message = Message {
    name: "core.v1.VsphereVirtualDiskVolumeSource",
    fields: &[
        one(1, "volumePath", Kind::Text),
        one(2, "fsType", Kind::Text),
        one(3, "storagePolicyName", Kind::Text),
        one(4, "storagePolicyID", Kind::Text),
    ],
};

static CORE_V1_WEIGHTED_POD_AFFINITY_TERM: Message = Message {
    name: "core.v1.WeightedPodAffinityTerm",
    fields: &[
        one(1, "weight", Kind::Integer),
        one(2, "podAffinityTerm", Kind::Message(&CORE_V1_POD_AFFINITY_TERM)),
    ],
};

static CORE_V1_WINDOWS_SECURITY_CONTEXT_OPTIONS: Message = Message {
    name: "core.v1.WindowsSecurityContextOptions",
    fields: &[
        one(1, "gmsaCredentialSpecName", Kind::Text),
        one(2, "gmsaCredentialSpec", Kind::Text),
        one(3, "runAsUserName", Kind::Text),
        one(4, "hostProcess", Kind::Boolean),
    ],
};

static DISCOVERY_V1_ENDPOINT: Message = Message {
    name: "discovery.v1.Endpoint",
    fields: &[
        many(1, "addresses", Kind::Text),
        one(2, "conditions", Kind::Message(&DISCOVERY_V1_ENDPOINT_CONDITIONS)),
        one(3, "hostname", Kind::Text),
        one(4, "targetRef", Kind::Message(&CORE_V1_OBJECT_REFERENCE)),
        map(5, "deprecatedTopology", Kind::Text),
        one(6, "nodeName", Kind::Text),
        one(7, "zone", Kind::Text),
        one(8, "hints", Kind::Message(&DISCOVERY_V1_ENDPOINT_HINTS)),
    ],
};

static DISCOVERY_V1_ENDPOINT_CONDITIONS: Message = Message {
    name: "discovery.v1.EndpointConditions",
    fields: &[
        one(1, "ready", Kind::Boolean),
        one(2, "serving", Kind::Boolean),
        one(3, "terminating", Kind::Boolean),
    ],
};

static DISCOVERY_V1_ENDPOINT_HINTS: Message = Message {
    name: "discovery.v1.EndpointHints",
    fields: &[
        many(1, "forZones", Kind::Message(&DISCOVERY_V1_FOR_ZONE)),
        many(2, "forNodes", Kind::Message(&DISCOVERY_V1_FOR_NODE)),
    ],
};

static DISCOVERY_V1_ENDPOINT_PORT: Message = Message {
    name: "discovery.v1.EndpointPort",
    fields: &[
        one(1, "name", Kind::Text),
        one(2, "protocol", Kind::Text),
        one(3, "port", Kind::Integer),
        one(4, "appProtocol", Kind::Text),
    ],
};

static DISCOVERY_V1_ENDPOINT_SLICE: Message = Message {
    name: "discovery.v1.EndpointSlice",
    fields: &[
        one(1, "metadata", Kind::Message(&META_V1_OBJECT_META)),
        many(2, "endpoints", Kind::Message(&DISCOVERY_V1_ENDPOINT)),
        many(3, "ports", Kind::Message(&DISCOVERY_V1_ENDPOINT_PORT)),
        one(4, "addressType", Kind::Text),
    ],
};

static DISCOVERY_V1_FOR_NODE: Message = Message {
    name: "discovery.v1.ForNode",
    fields: &[one(1, "name", Kind::Text)],
};

static DISCOVERY_V1_FOR_ZONE: Message = Message {
    name: "discovery.v1.ForZone",
    fields: &[one(1, "name", Kind::Text)],
};

static EVENTS_V1_EVENT: Message = Message {
    name: "events.v1.Event",
    fields: &[
        one(1, "metadata", Kind::Message(&META_V1_OBJECT_META)),
        one(2, "eventTime", Kind::MicroTime),
        one(3, "series", Kind::Message(&EVENTS_V1_EVENT_SERIES)),
        one(4, "reportingController", Kind::Text),
        one(5, "reportingInstance", Kind::Text),
        one(6, "action", Kind::Text),
        one(7, "reason", Kind::Text),
        one(8, "regarding", Kind::Message(&CORE_V1_OBJECT_REFERENCE)),
        one(9, "related", Kind::Message(&CORE_V1_OBJECT_REFERENCE)),
        one(10, "note", Kind::Text),
        one(11, "type", Kind::Text),
        one(12, "deprecatedSource", Kind::Message(&CORE_V1_EVENT_SOURCE)),
        one(13, "deprecatedFirstTimestamp", Kind::Time),
        one(14, "deprecatedLastTimestamp", Kind::Time),
        one(15, "deprecatedCount", Kind::Integer).plain(),
    ],
};

static EVENTS_V1_EVENT_SERIES: Message = Message {
    name: "events.v1.EventSeries",
    fields: &[
        one(1, "count", Kind::Integer),
        one(2, "lastObservedTime", Kind::MicroTime),
    ],
};

static META_V1_CONDITION: Message = Message {
    name: "meta.v1.Condition",
    fields: &[
        one(1, "type", Kind::Text),
        one(2, "status", Kind::Text),
        one(3, "observedGeneration", Kind::Integer).plain(),
        one(4, "lastTransitionTime", Kind::Time),
        one(5, "reason", Kind::Text),
        one(6, "message", Kind::Text),
    ],
};

static META_V1_DELETE_OPTIONS: Message = Message {
    name: "meta.v1.DeleteOptions",
    fields: &[
        one(1, "gracePeriodSeconds", Kind::Integer),
        one(2, "preconditions", Kind::Message(&META_V1_PRECONDITIONS)),
        one(3, "orphanDependents", Kind::Boolean),
        one(4, "propagationPolicy", Kind::Text),
        many(5, "dryRun", Kind::Text),
        one(6, "ignoreStoreReadErrorWithClusterBreakingPotential", Kind::Boolean),
    ],
};

static META_V1_FIELD_SELECTOR_REQUIREMENT: Message = Message {
    name: "meta.v1.FieldSelectorRequirement",
    fields: &[
        one(1, "key", Kind::Text),
        one(2, "operator", Kind::Text),
        many(3, "values", Kind::Text),
    ],
};

static META_V1_LABEL_SELECTOR: Message = Message {
    name: "meta.v1.LabelSelector",
    fields: &[
        map(1, "matchLabels", Kind::Text),
        many(
            2,
            "matchExpressions",
            Kind::Message(&META_V1_LABEL_SELECTOR_REQUIREMENT),
        ),
    ],
};

static META_V1_LABEL_SELECTOR_REQUIREMENT: Message = Message {
    name: "meta.v1.LabelSelectorRequirement",
    fields: &[
        one(1, "key", Kind::Text),
        one(2, "operator", Kind::Text),
        many(3, "values", Kind::Text),
    ],
};

static META_V1_MANAGED_FIELDS_ENTRY: Message = Message {
    name: "meta.v1.ManagedFieldsEntry",
    fields: &[
        one(1, "manager", Kind::Text),
        one(2, "operation", Kind::Text),
        one(3, "apiVersion", Kind::Text),
        one(4, "time", Kind::Time),
        one(6, "fieldsType", Kind::Text),
        one(7, "fieldsV1", Kind::Json),
        one(8, "subresource", Kind::Text),
    ],
};

static META_V1_OBJECT_META: Message = Message {
    name: "meta.v1.ObjectMeta",
    fields: &[
        one(1, "name", Kind::Text),
        one(2, "generateName", Kind::Text),
        one(3, "namespace", Kind::Text),
        one(4, "selfLink", Kind::Text),
        one(5, "uid", Kind::Text),
        one(6, "resourceVersion", Kind::Text),
        one(7, "generation", Kind::Integer).plain(),
        one(8, "creationTimestamp", Kind::Time),
        one(9, "deletionTimestamp", Kind::Time),
        one(10, "deletionGracePeriodSeconds", Kind::Integer),
        map(11, "labels", Kind::Text),
        map(12, "annotations", Kind::Text),
        many(13, "ownerReferences", Kind::Message(&META_V1_OWNER_REFERENCE)).merged("uid"),
        many(14, "finalizers", Kind::Text).merged(""),
        many(17, "managedFields", Kind::Message(&META_V1_MANAGED_FIELDS_ENTRY)),
    ],
};

static META_V1_OWNER_REFERENCE: Message = Message {
    name: "meta.v1.OwnerReference",
    fields: &[
        one(1, "kind", Kind::Text),
        one(3, "name", Kind::Text),
        one(4, "uid", Kind::Text),
        one(5, "apiVersion", Kind::Text),
        one(6, "controller", Kind::Boolean),
        one(7, "blockOwnerDeletion", Kind::Boolean),
    ],
};

static META_V1_PRECONDITIONS: Message = Message {
    name: "meta.v1.Preconditions",
    fields: &[one(1, "uid", Kind::Text), one(2, "resourceVersion", Kind::Text)],
};

static NODE_V1_OVERHEAD: Message = Message {
    name: "node.v1.Overhead",
    fields: &[map(1, "podFixed", Kind::Quantity)],
};

static NODE_V1_RUNTIME_CLASS: Message = Message {
    name: "node.v1.RuntimeClass",
    fields: &[
        one(1, "metadata", Kind::Message(&META_V1_OBJECT_META)),
        one(2, "handler", Kind::Text),
        one(3, "overhead", Kind::Message(&NODE_V1_OVERHEAD)),
        one(4, "scheduling", Kind::Message(&NODE_V1_SCHEDULING)),
    ],
};

static NODE_V1_SCHEDULING: Message = Message {
    name: "node.v1.Scheduling",
    fields: &[
        map(1, "nodeSelector", Kind::Text),
        many(2, "tolerations", Kind::Message(&CORE_V1_TOLERATION)),
    ],
};

static POLICY_V1_EVICTION: Message = Message {
    name: "policy.v1.Eviction",
    fields: &[
        one(1, "metadata", Kind::Message(&META_V1_OBJECT_META)),
        one(2, "deleteOptions", Kind::Message(&META_V1_DELETE_OPTIONS)),
    ],
};
