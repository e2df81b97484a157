//! What is recorded of the model, the machine and its settings, so that a run can be told from another.

use driftprobe_model::Model;
use driftprobe_trace::{HostInfo, ModelInfo};
use std::collections::BTreeMap;
use std::path::Path;

/// What makes an accelerator repeat itself: set for a job on another machine, unless it is set here already.
pub const DETERMINISM: &[(&str, &str)] =
    &[("HIP_LAUNCH_BLOCKING", "1"), ("AMD_SERIALIZE_KERNEL", "3"), ("HSA_ENABLE_SDMA", "0")];

/// Variables that, beside those, decide whether and how an engine repeats itself.
const RECORDED: &[&str] = &[
    "CUDA_LAUNCH_BLOCKING",
    "CUBLAS_WORKSPACE_CONFIG",
    "CUDA_VISIBLE_DEVICES",
    "HIP_VISIBLE_DEVICES",
    "NVIDIA_TF32_OVERRIDE",
    "OMP_NUM_THREADS",
    "RAYON_NUM_THREADS",
    "MKL_NUM_THREADS",
];

/// What the manifest says of a model that was given so: its path (`DEMO`, or absolute), format, architecture and the
/// fingerprint of its weights.
pub fn model_info(given: &Path, model: &Model) -> ModelInfo {
    let absolute = || std::path::absolute(&model.path).unwrap_or_else(|_| model.path.clone());
    let path = if given == Path::new("DEMO") { given.to_owned() } else { absolute() };
    ModelInfo {
        path: Some(path.to_string_lossy().into_owned()),
        format: Some(model.format.id().to_owned()),
        architecture: Some(model.config.architecture.id().to_owned()),
        fingerprint: Some(model.weights.fingerprint()),
        ..ModelInfo::default()
    }
}

/// The determinism variables that are set, and everything that begins with GRETA_.
pub fn variables() -> BTreeMap<String, String> {
    let recorded = |name: &str| {
        let deterministic = DETERMINISM.iter().any(|(own, _)| *own == name);
        deterministic || RECORDED.contains(&name) || name.starts_with("GRETA_")
    };
    std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.to_string_lossy().into_owned())))
        .filter(|(name, _)| recorded(name))
        .collect()
}

/// The value of a variable that is set and not empty.
pub fn set(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|v| !v.trim().is_empty())
}

/// Who asks and from where, for others who find a machine in use.
pub fn who() -> String {
    let user = set("USER").or_else(|| set("LOGNAME")).unwrap_or_else(|| "somebody".to_owned());
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    if host.trim().is_empty() { user } else { format!("{user}@{}", host.trim()) }
}

/// CPU and operating system, as far as they can be had.
pub fn host() -> HostInfo {
    HostInfo { cpu: cpu_name(), gpu: None, os: Some(std::env::consts::OS.to_owned()), ..Default::default() }
}

fn cpu_name() -> Option<String> {
    let info = std::fs::read_to_string("/proc/cpuinfo").ok()?;
    let line = info.lines().find(|l| l.starts_with("model name"))?;
    let name = line.split_once(':')?.1.trim();
    Some(format!("{name} ({})", std::env::consts::ARCH))
}
