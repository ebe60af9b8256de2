//! desired + observed → PodStatus. (skeleton)
