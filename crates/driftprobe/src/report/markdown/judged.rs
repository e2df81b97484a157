//! What the model says: the root cause, contract findings, H₀ against H₁, and the usual suspects.

use super::Document;
use crate::analysis::Analysis;
use crate::cause::{Candidate, Cause};
use crate::judge::examine::Examination;
use crate::report::escape::{code, markdown, markdown_sentence};
use crate::report::format::brief;
use crate::report::recordings::recordings;
use crate::report::suspects::{cause_in_words, named, outcome};
use crate::verdict::Verdict;
use crate::verdict::hypotheses::{H0, H1, Supports, modes, weigh};

/// Hypotheses that were refuted and are shown.
const REFUTED: usize = 5;

/// What stands where no model judged the run.
pub fn without_model(analysis: &Analysis, what: &str) -> String {
    let wrong =
        analysis.verdict.reasons.iter().find(|reason| reason.code == crate::verdict::reason::ReasonCode::WrongModel);
    match wrong {
        Some(reason) => format!("Not measured: {} ({what}).", markdown_sentence(reason.code.sentence())),
        None => format!("Not measured: no model was given (`--model`): {what}."),
    }
}

pub fn root_cause(out: &mut Document, analysis: &Analysis) {
    out.section("Root cause");
    if analysis.examination.is_none() {
        out.line(without_model(analysis, "which bug explains what is off is found by replaying each with the model"));
        return;
    }
    let mut none = true;
    for one in recordings(analysis) {
        for cause in one.analysis.examination.iter().flat_map(|e| &e.causes) {
            out.line(format!("**{}**: {}\n", markdown(&one.name), markdown(&cause_in_words(cause))));
            of_cause(out, cause);
            none = false;
        }
    }
    if none {
        out.line(match analysis.verdict.verdict {
            Verdict::Pass => "None: no stage of either phase is off by more than rounding.",
            Verdict::Fail => {
                "Not named: what is off is not a stage that could be replayed with the bugs of the catalogue."
            }
            Verdict::Inconclusive => "None: no stage that could be judged is off by more than rounding.",
        });
    }
}

fn of_cause(out: &mut Document, cause: &Cause) {
    let layers: Vec<String> = cause.layers.iter().filter(|layer| **layer >= 0).map(i32::to_string).collect();
    let layers = if layers.is_empty() { "no layer".to_owned() } else { layers.join(", ") };
    let names: Vec<String> = cause.candidates.iter().map(named).collect();
    let after = cause.candidates.first().map_or("none fits".to_owned(), |best| brief(best.noise_rms_after));
    let shown = match cause.systematic {
        true => "only by all rows together",
        false => "by the row itself",
    };
    let rows = [
        ["Candidates", &if names.is_empty() { "UNEXPLAINED".to_owned() } else { names.join(" or ") }],
        ["Phase", &cause.phase.to_string()],
        ["First at", &format!("{}, position {}, {}", cause.prompt_id, cause.pos, cause.point)],
        ["Layers at fault there", &layers],
        ["Shown", shown],
        ["RMS residual in units of noise, before → after", &format!("{} → {after}", brief(cause.noise_rms_before))],
        ["Hypotheses replayed", &cause.tested.len().to_string()],
    ];
    out.table(["What", "Found"], rows.map(|row| row.map(markdown)));
    if cause.candidates.is_empty() && !cause.evidence.is_empty() {
        out.line(format!("\nEvidence: {}", markdown_sentence(&cause.evidence)));
    }
    let refuted: Vec<&Candidate> = cause.tested.iter().filter(|candidate| !candidate.accepted).take(REFUTED).collect();
    if !refuted.is_empty() {
        out.line("\nThe best of those that do not explain it:\n");
        let rows = refuted.into_iter().map(|one| [markdown(&named(one)), brief(one.noise_rms_after)]);
        out.table(["Hypothesis", "RMS residual that it leaves"], rows);
    }
    out.line("");
}

pub fn contract(out: &mut Document, analysis: &Analysis) {
    out.section("Contract findings");
    if analysis.examination.is_none() {
        out.line(without_model(analysis, "which arithmetic the phases really have is found by fitting it"));
        return;
    }
    let all = modes(analysis);
    let findings = all.iter().flat_map(|(mode, one)| {
        let findings = one.examination.iter().flat_map(|e| &e.contract_findings);
        findings.map(move |finding| {
            let layers: Vec<String> = finding.layers.iter().map(i32::to_string).collect();
            [
                (*mode).to_owned(),
                finding.phase.to_string(),
                code(finding.point.id()),
                layers.join(", "),
                finding.rows.to_string(),
                markdown(&finding.variant.says),
                code(&finding.variant.id),
                format!("{} → {}", brief(finding.rms_declared), brief(finding.rms)),
            ]
        })
    });
    let findings: Vec<[String; 8]> = findings.collect();
    if findings.is_empty() {
        out.line(
            "None: every stage that was judged rounds as the contract declares, or as was assumed where it is silent.",
        );
    } else {
        out.line("Legitimate roundings that the contract does not declare; each explains all rows of its stage.\n");
        let header = ["Mode", "Phase", "Stage", "Layers", "Rows", "Rounds so", "Contract", "RMS z declared → fitted"];
        out.table(header, findings);
    }
    let assumed = analysis.examination.as_ref().map(Examination::assumed).unwrap_or_default();
    if !assumed.is_empty() {
        let fields: Vec<String> = assumed.keys().map(|field| code(field)).collect();
        out.line(format!("\nNot declared, and assumed: {}.", fields.join(", ")));
    }
}

pub fn hypotheses(out: &mut Document, analysis: &Analysis) {
    let all = weigh(analysis);
    out.section("Structural drift or real mismatch");
    out.line("### Hypothesis testing\n");
    out.line(format!("- **H₀ (null hypothesis)**: {H0}"));
    out.line(format!("- **H₁ (alternative)**: {H1}"));
    out.line("\n### Evidence\n");
    let rows = all.evidence.iter().map(|one| {
        let [structural, mismatch, word] = match one.supports {
            Supports::Structural => ["✓", "–", ""],
            Supports::Mismatch => ["–", "✓", ""],
            Supports::Neither => ["–", "–", "says nothing: "],
            Supports::NotMeasured => ["–", "–", "to settle it: "],
        };
        let why = format!("{word}{}", one.why);
        [markdown(one.what), markdown(&one.measured), structural.into(), mismatch.into(), markdown_sentence(&why)]
    });
    out.table(["Evidence", "Measured", "Supports H₀", "Supports H₁", "Why"], rows);
    out.line("\n### Conclusion\n");
    out.line(format!("**{}.**", markdown_sentence(&all.conclusion)));
}

pub fn suspects(out: &mut Document, analysis: &Analysis) {
    out.section("The usual suspects");
    let Some(examination) = &analysis.examination else {
        out.line(without_model(
            analysis,
            "mask, RoPE, score normalisation and Q/K/V are tested by replaying their bugs",
        ));
        return;
    };
    if examination.suspects.is_empty() {
        out.line("Not tested: nothing of attention could be replayed.");
        return;
    }
    let rows = examination.suspects.iter().map(|one| {
        let (word, says) = outcome(one);
        [one.suspect.to_string(), one.phase.to_string(), word.to_owned(), markdown_sentence(&says)]
    });
    out.table(["Suspect", "Phase", "Outcome", "How it was tested"], rows);
}
