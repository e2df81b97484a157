//! The engine that was asked for, made of the options; those that do not fit it are refused by name.

use crate::args::{EngineArgs, EngineKind};
use crate::failure::Failure;
use candle_core::Device;
use driftprobe_engine::faulty::{Fault, FaultyEngine, Subject};
use driftprobe_engine::{EmbeddedEngine, Engine, Settings, Storage};
use driftprobe_model::Model;
use driftprobe_trace::PromptInfo;

/// The engine that the options ask for, with a fault if one is to be made.
pub fn open<'m>(
    args: &EngineArgs,
    fault: Option<&Fault>,
    model: &'m Model,
    prompts: &[PromptInfo],
) -> Result<Box<dyn Engine + 'm>, Failure> {
    refuse_what_does_not_fit(args, fault.is_some())?;
    match (args.engine, fault) {
        (EngineKind::LlamaCpp, _) => llama_cpp(args, model, prompts),
        (EngineKind::Embedded, None) => Ok(Box::new(EmbeddedEngine::new(model, settings(args)?)?)),
        (EngineKind::Embedded, Some(fault)) => {
            let tokens = prompts.iter().map(|prompt| prompt.tokens.len()).max().unwrap_or(1);
            let settings = settings(args)?;
            let subject = Subject { model, settings: &settings, tokens };
            Ok(Box::new(FaultyEngine::new(&subject, fault.clone())?))
        }
    }
}

/// Does something in as many threads as were asked for, where the engine takes its threads from the pool that it is called in.
///
/// # Errors
/// If there can be no such pool, or what is done fails.
pub fn in_threads<T: Send>(args: &EngineArgs, work: impl FnOnce() -> Result<T, Failure> + Send) -> Result<T, Failure> {
    let Some(threads) = args.threads.filter(|_| args.engine == EngineKind::Embedded) else { return work() };
    let refuse = |why: String| Failure::new(format!("--threads {threads}: {why}"), "give a count from 1");
    if threads == 0 {
        return Err(refuse("nothing computes".to_owned()));
    }
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().map_err(|e| refuse(e.to_string()))?;
    pool.install(work)
}

/// Says which option belongs to another engine than the one asked for.
pub fn refuse_what_does_not_fit(args: &EngineArgs, fault: bool) -> Result<(), Failure> {
    let (other, options): (&str, &[(&str, bool)]) = match args.engine {
        EngineKind::Embedded => (
            "llama-cpp",
            &[
                ("--flash-attention", args.flash_attention.is_some()),
                ("--ubatch", args.ubatch.is_some()),
                ("--prune", args.prune),
            ],
        ),
        EngineKind::LlamaCpp => (
            "embedded",
            &[
                ("--dtype", args.dtype.is_some()),
                ("--prefill-attention", args.prefill_attention.is_some()),
                ("--decode-attention", args.decode_attention.is_some()),
                ("--prefill-chunk", args.prefill_chunk.is_some()),
                ("--batch", args.batch.is_some()),
                ("--quantised-matmul", args.quantised_matmul.is_some()),
                ("--fault", fault),
            ],
        ),
    };
    let Some((name, _)) = options.iter().find(|(_, given)| *given) else { return Ok(()) };
    let hint = match *name {
        "--prefill-chunk" => "llama.cpp splits prompts by --ubatch".to_owned(),
        name => format!("leave {name} out, or use --engine {other}"),
    };
    Err(Failure::new(format!("{name} is no option of the engine {}", args.engine.id()), hint))
}

/// The embedded engine's settings.
pub fn settings(args: &EngineArgs) -> Result<Settings, Failure> {
    if args.prefill_chunk == Some(0) {
        return Err(Failure::new("--prefill-chunk 0 feeds nothing", "give a number of tokens from 1"));
    }
    let defaults = Settings::default();
    let storage = args.dtype.unwrap_or(defaults.storage);
    let kv_cache = args.kv_cache.as_deref().map(|name| {
        let hint = "the embedded engine's cache is f32, f16 or bf16; q8_0 is for --engine llama-cpp";
        name.parse::<Storage>().map_err(|_| Failure::new(format!("--kv-cache {name} does not fit"), hint))
    });
    Ok(Settings {
        storage,
        residual: None,
        kv_cache: kv_cache.transpose()?.unwrap_or(storage),
        prefill_attention: args.prefill_attention.unwrap_or(defaults.prefill_attention),
        decode_attention: args.decode_attention.unwrap_or(defaults.decode_attention),
        prefill_chunk_tokens: args.prefill_chunk,
        batch: args.batch.unwrap_or(defaults.batch),
        quantised_matmul: args.quantised_matmul.unwrap_or(defaults.quantised_matmul),
        device: device(&args.device)?,
    })
}

fn device(name: &str) -> Result<Device, Failure> {
    let not_here = |e: candle_core::Error| {
        let hint = format!("build with `--features {name}` on a machine that has such a device, or use --device cpu");
        Failure::new(format!("device {name} cannot be used: {e}"), hint)
    };
    match name {
        "cpu" => Ok(Device::Cpu),
        "cuda" => Device::new_cuda(0).map_err(not_here),
        "metal" => Device::new_metal(0).map_err(not_here),
        other => Err(Failure::new(format!("device {other} is not known"), "expected cpu, cuda or metal")),
    }
}

#[cfg(not(feature = "llama-cpp"))]
fn llama_cpp<'m>(_: &EngineArgs, _: &'m Model, _: &[PromptInfo]) -> Result<Box<dyn Engine + 'm>, Failure> {
    let hint = "build it in: cargo install --path crates/driftprobe-cli --features llama-cpp (docs/llama-cpp.md)";
    Err(Failure::new("this build of driftprobe has no llama.cpp in it", hint))
}

#[cfg(feature = "llama-cpp")]
fn llama_cpp<'m>(args: &EngineArgs, model: &'m Model, prompts: &[PromptInfo]) -> Result<Box<dyn Engine + 'm>, Failure> {
    use driftprobe_llama_cpp::{CacheType, LlamaCppEngine, Options};
    let defaults = Options::default();
    let kv_cache = args.kv_cache.as_deref().map(|name| {
        let hint = "llama.cpp's cache is f32, f16 or q8_0 here; bf16 is for --engine embedded";
        name.parse::<CacheType>().map_err(|_| Failure::new(format!("--kv-cache {name} does not fit"), hint))
    });
    let longest = prompts.iter().map(|prompt| prompt.tokens.len()).max().unwrap_or(1);
    let options = Options {
        device: llama_cpp_device(&args.device)?,
        flash_attention: args.flash_attention.is_some_and(crate::args::Switch::is_on),
        kv_cache: kv_cache.transpose()?.unwrap_or(defaults.kv_cache),
        context_tokens: Some(longest + args.steps),
        ubatch_tokens: args.ubatch.unwrap_or(defaults.ubatch_tokens),
        prune: args.prune,
        threads: args.threads,
        ..defaults
    };
    Ok(Box::new(LlamaCppEngine::new(model, options)?))
}

#[cfg(feature = "llama-cpp")]
fn llama_cpp_device(name: &str) -> Result<driftprobe_llama_cpp::Device, Failure> {
    use driftprobe_llama_cpp::Device;
    let built = [
        ("cuda", cfg!(feature = "llama-cpp-cuda")),
        ("rocm", cfg!(feature = "llama-cpp-rocm")),
        ("vulkan", cfg!(feature = "llama-cpp-vulkan")),
        ("metal", cfg!(feature = "llama-cpp-metal")),
    ];
    if name == "cpu" {
        return Ok(Device::Cpu);
    }
    match built.iter().find(|(known, _)| *known == name) {
        Some((_, true)) => Ok(Device::Gpu),
        Some(_) => {
            let hint = format!("build with `--features llama-cpp-{name}`, or use --device cpu");
            Err(Failure::new(format!("this build's llama.cpp has no {name}"), hint))
        }
        None => {
            let hint = "expected cpu, cuda, rocm, vulkan or metal";
            Err(Failure::new(format!("device {name} is not known"), hint))
        }
    }
}
