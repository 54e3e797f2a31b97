"""The tables' data dictionary: every table, every column, what it means. docs/tables.md is written from it."""

_CHECKPOINT = {
    "checkpoint": "checkpoint's name in the study",
    "stage": "base, midtrain, sft, dpo, rl or control",
    "data_domain": "what the stage trained on, as the study says",
    "seed": "training seed, empty where the study gives none",
}
_EDGE = {
    "parent": "parent checkpoint",
    "child": "child checkpoint: the training step's outcome",
    "stage": "the child's stage",
    "data_domain": "what the step trained on, as the study says",
    "seed": "the child's training seed, empty where the study gives none",
}
_DOMAIN = {"domain": 'prompt domain, or "pooled" over all of them'}
_CONTRAST = {"contrast": "contrast of the pairs: compassion, or a confound's name"}

TABLES: dict[str, dict[str, str]] = {
    "layers": _CHECKPOINT
    | _CONTRAST
    | _DOMAIN
    | {
        "layer": "0-based block whose output is read; −1 is the embedding",
        "position": "token(s) read: response_mean averages the answer's tokens",
        "method": "mass-mean, whitened (one covariance for the lineage), lda, logistic, pca (of differences) or ccs; "
        "cross-fitted, folds grouped by scenario",
        "n_scenarios": "scenarios in this row",
        "size_raw": "unbiased length of the mean difference (crossnobis, signed root), residual units",
        "size_tau": "size_raw over the median residual norm of neutral tokens at this site",
        "size_sd": "size_raw over the within-side SD along the held-out direction (mass-mean rows)",
        "dprime": "held-out gap between the sides over the within-side SD",
        "dz": "mean over SD of the scenarios' held-out differences",
        "auroc": "held-out P(compassionate scores above curt), ties one half",
        "auroc_low": "lower 95 % limit (Hanley–McNeil variance, Newcombe's method 5)",
        "auroc_high": "upper 95 % limit",
        "win_rate": "share of scenarios whose compassionate side scores above its curt side",
        "fisher": "squared gap over the within-side variance",
        "accuracy": "balanced accuracy at the training folds' threshold",
        "recall": "share of compassionate sides that score above what 5 % of neutral texts exceed",
        "fragility": "SD of white noise a coordinate, in units of tau, at which expected AUROC falls half-way to 0.5",
        "codelength": "bits a label by online coding (logistic rows); 1 is what no knowledge takes",
        "calibration_error": "mean distance of predicted from observed shares over ten bins (logistic rows)",
        "selectivity": "AUROC minus the mean AUROC of 20 directions fitted to labels drawn at random per scenario "
        "(mass-mean rows)",
        "t_flip": "mean over standard error of the held-out pair differences (mass-mean rows)",
        "p_flip": "its one-sided p among 1000 random flips of the scenarios' sides, each refitted",
        "p_flip_adjusted": "the same adjusted over all layers and domains of the checkpoint (max-T)",
        "p_matched": "one-sided p of |d′| among 1000 random directions with the within-side covariance",
        "p_isotropic": "the same among isotropic random directions, a weaker null",
        "best_baseline": "strongest reader of the text alone on the same folds: a surface feature, tfidf, letters, "
        "naive-bayes or embedding-mean",
        "best_baseline_auroc": "its held-out AUROC",
    },
    "transfer": _CHECKPOINT
    | {
        "train_checkpoint": "checkpoint the readers were fitted in: this one, or its parent (frozen; closed forms)",
        "train_domain": 'domain they were fitted on, or "pooled"',
        "test_domain": 'domain they score, "pooled", or a set that retells scenarios (matched, translation-de); a '
        "scenario's own fold is always left out of the fit",
        "method": "as in layers.csv",
        "n_scenarios": "scenarios scored",
        "auroc": "held-out AUROC, mean over the declared band's layers",
        "dprime": "held-out d′, mean over the declared band's layers",
    },
    "confounds": _CHECKPOINT
    | _DOMAIN
    | {
        "layer": "0-based block whose output is read; −1 is the embedding",
        "confound": 'a confound contrast\'s name, "all" of them together, or 2x2 ({caring, uncaring} × {warm, plain})',
        "quantity": "cosine (unbiased, of the two mean differences); dprime and retained (d′ once the confound's "
        "direction is projected out, and its share of d′ before); for 2x2: caring, tone, interaction along the pooled "
        "direction, in SDs",
        "n_scenarios": "scenarios in this row",
        "value": "estimate",
        "low": "lower 95 % limit (cosine: two-sample jackknife; 2x2: t over scenarios); empty where there is none",
        "high": "upper 95 % limit",
    },
    "reliability": _CHECKPOINT
    | _DOMAIN
    | {
        "layer": "the middle layer of the declared band",
        "bin_low": "lower edge of a bin of predicted probabilities (logistic reader, held out)",
        "bin_high": "its upper edge",
        "predicted": "mean predicted probability that a side is the compassionate one",
        "observed": "share that is; empty where the bin is",
        "n": "sides in the bin",
    },
    "drift": _EDGE
    | _CONTRAST
    | _DOMAIN
    | {
        "layer": '0-based block, −1 the embedding, or "band": the mean over the declared band',
        "gauge": "unit of size: raw, tau (median neutral residual norm) or sd (within-side SD)",
        "size_parent": "unbiased size in the parent, in this gauge",
        "size_child": "unbiased size in the child, in this gauge",
        "retention": "size_child over size_parent, each direction refitted (band: exp of the mean log)",
        "retention_low": "lower 95 % limit (Fieller on the jackknife; band: jackknife of the mean log)",
        "retention_high": "upper 95 % limit",
        "frozen": "child's gap along the parent's direction over the parent's own, cross-fitted",
        "frozen_low": "lower 95 % limit (Fieller on the jackknife; band: jackknife of the mean)",
        "frozen_high": "upper 95 % limit",
        "cosine": "unbiased cosine between the parent's and the child's mean difference",
        "cosine_low": "lower 95 % limit (jackknife)",
        "cosine_high": "upper 95 % limit",
        "p": "two-sided p of retention = 1 (jackknife); 1 where it is 1 to within 1e-4",
        "p_adjusted": "band rows: Holm over an edge's domains (pooled apart); layers: false discovery rate over "
        "layers and domains",
    },
    "edges": _EDGE
    | _CONTRAST
    | _DOMAIN
    | {
        "n_scenarios": "scenarios in this row",
        "quantity": "over the declared band: R_tau, R_sd (retention in τ and σ); F, F_reverse, F_aligned (frozen in τ: "
        "parent's direction on the child; child's on the parent, over its own gap; the first once the child's neutral "
        "texts are turned onto the parent's, within their leading components); cosine; sigma (within-side SD in τ, "
        "child's over parent's); midpoint (shift of the sides' middle along the parent's "
        "direction, within-side SDs); P "
        "(shift at the last prompt token along it, SDs of the parent's prompts); B, B_pmi (change "
        "of the margin, and of "
        "the margin less that under an empty prompt, SDs of the parent's); G (change of the score that the root's "
        "reader gives the checkpoint's own answers, SDs of the parent's); S (slope of the margin in the "
        "dose of the checkpoint's own direction, child's over parent's); B_nats (nats a token); signal (the parent's "
        "squared size, τ²); perplexity (child's over parent's, neutral text); R_mde, B_mde "
        "(smallest loss of R_tau, and "
        "change of B, found in 80 of 100 studies)",
        "value": "estimate",
        "low": "lower 95 % limit; empty where the quantity has none",
        "high": "upper 95 % limit",
        "low_90": "lower 90 % limit: with the next, two one-sided tests at 5 %",
        "high_90": "upper 90 % limit",
        "low_adjusted": "lower 95 % limit, Bonferroni over the step's domains (pooled rows: unadjusted)",
        "high_adjusted": "upper 95 % limit, adjusted likewise",
        "null_percentile": "P: share of 1000 random directions of the texts' covariance that shift less; else empty",
        "state": "flat (90 % limits within the smallest effect), else down, up or lost (adjusted limits exclude no "
        "change; lost: and reach down to no size), else unclear; empty for what has no state",
    },
    "gates": {
        "parent": "parent checkpoint",
        "child": "child checkpoint",
        "domain": _DOMAIN["domain"],
        "gate": "G1 same texts, tokens, dtype; G2 scenarios and power; G3 grouped folds, declared band; G4 the parent "
        "holds the contrast; G5 more than the text; G6 more than tone; G7 no general damage; G8 "
        "the instrument works here",
        "passed": "yes, no, or empty where it could not be measured",
        "value": "what was compared with the limit",
        "limit": "the limit",
        "says": "the gate's finding in words",
    },
    "verdicts": _EDGE
    | _DOMAIN
    | {
        "verdict": "the first rule that fits; after a semicolon, what behaviour did",
        "evidence": "of a loss: E0 none, E1 frozen reading, E2 representational, E3 behavioural, E4 causal, E5 "
        "attributable to the kind of training",
        "retention": "R_tau",
        "retention_low": "its lower limit, adjusted for the step's domains",
        "retention_high": "its upper limit, adjusted",
        "delta_margin": "B, SDs of the parent's margins",
        "delta_margin_low": "its lower limit, adjusted",
        "delta_margin_high": "its upper limit, adjusted",
        "mde": "smallest loss of retention found in 80 of 100 studies, at the adjusted level",
        "mde_margin": "smallest change of the margin found likewise, SDs",
        "n_scenarios": "scenarios in this row",
        "gates_failed": "gates that did not pass",
        "reasons": "what decided, with the numbers (limits adjusted) and states",
    },
    "branches": {
        "parent": "common parent",
        "child_a": "a child, or the kind of training (data_domain) where the unit is the seed",
        "child_b": "the other; empty where one child or kind is compared with no change",
        "domain": _DOMAIN["domain"],
        "quantity": "log_R (log retention, τ), F (frozen), B (margin, SDs of the parent's), each the difference a − b; "
        "with “interaction”: this domain's minus the mean of the others'; with “change” or “− 1”: a kind's mean over "
        "seeds",
        "unit": "what is resampled: scenario (these weights), or seed (this kind of training)",
        "difference": "estimate",
        "low": "lower 95 % limit",
        "high": "upper 95 % limit",
        "p_adjusted": "two-sided p, Holm over domains (pooled apart); 1 where the difference is below 1e-4",
    },
    "doses": {
        "parent": "parent of the series",
        "series": "one adapter at several scales, or one kind of edit at several strengths",
        "child": "the checkpoint",
        "dose": "its scale, share or degrees",
        "domain": _DOMAIN["domain"],
        "quantity": "log_R, F or B, as in branches.csv",
        "value": "change from the parent (F: the retention itself)",
        "low": "lower 95 % limit",
        "high": "upper 95 % limit",
        "monotone": "Spearman's rank correlation of dose and value over the series, its parent at dose 0",
    },
    "instrument": {
        "control": "recaptured (the root's weights again, other row budget), rounded (bfloat16), damaged (.25 of a "
        "direction taken away, which other scenarios gave), unrelated (the formality of other "
        "texts, in the damaged copy)",
        "quantity": "as in edges.csv",
        "n_scenarios": "scenarios the control was measured on",
        "value": "estimate",
        "low": "lower 95 % limit",
        "high": "upper 95 % limit",
        "state": "as in edges.csv",
        "passed": "damaged: the upper limit lies below 1; the others: flat",
    },
    "calibration": {
        "world": "gaussian (normal residuals), or captured (a run's own residuals, effects planted in them)",
        "truth": "what the simulated steps do",
        "n_scenarios": "scenarios a domain",
        "measure": "verdict (share of verdicts that read so), coverage (share of 95 % intervals that hold the truth), "
        "width (of those), bias (estimate minus truth), detected (share whose adjusted interval excludes no change on "
        "the true side), flat although not (share called flat at or beyond the smallest effect), mde (mean smallest "
        "detectable change), state",
        "name": "verdict or quantity (as in edges.csv)",
        "value": "estimate",
        "mc_error": "Monte-Carlo standard error, the step as the unit",
        "n": "step × domain verdicts",
    },
    "behaviour": _CHECKPOINT
    | _CONTRAST
    | _DOMAIN
    | {
        "n_scenarios": "scenarios in this row",
        "margin": "mean log-prob a token of the compassionate minus the curt answer, nats",
        "margin_low": "lower 95 % limit (t over scenarios)",
        "margin_high": "upper 95 % limit",
        "margin_pmi": "the same after subtracting each answer's log-prob under an empty prompt; empty without pmi",
        "neutral_perplexity": "perplexity on the neutral texts",
    },
    "generations": _CHECKPOINT
    | _DOMAIN
    | {
        "scenario_id": "whose prompt is answered",
        "prompt": "the prompt",
        "alpha": "dose of the checkpoint's own direction while the answer was written; 0: not steered",
        "sample": "number of the sample, from 0",
        "text": "the answer, sampled at temperature 1",
        "reader_score": "its mean projection on the root's direction at the last layer of the declared band (fitted on "
        "scenarios that are not asked here), from the middle of the two sides, in SDs within a side; empty without an "
        "answer",
    },
    "judged": _CHECKPOINT
    | _DOMAIN
    | {
        "scenario_id": "whose prompt is answered",
        "alpha": "as in generations.csv, which holds the answer",
        "sample": "likewise",
        "judge": "the model that rated it (`compassion judge`)",
        "score": "how much the answer cares about those whom the prompt concerns, from 1 to 5; empty where the judge's "
        "reply is no such integer",
    },
    "steering": _CHECKPOINT
    | _DOMAIN
    | {
        "layer": "block after which the direction is added: the middle of the declared band; empty where every layer "
        "is edited, or none",
        "kind": "add: h + alpha·tau·u from the last prompt token on; ablate: at every site its own direction is taken "
        "out; prompt: nothing edited, a system prompt asks for compassion",
        "control": "none: the compassion direction, fitted on scenarios that are not scored here; matched-N: random, "
        "with the covariance of the texts within a side; system prompt",
        "alpha": "dose in units of tau",
        "n_scenarios": "held-out scenarios scored (control directions: at most two a domain)",
        "margin": "mean log-prob a token of the compassionate minus the curt answer, nats",
        "margin_low": "lower 95 % limit (t over scenarios)",
        "margin_high": "upper 95 % limit",
        "shift": "mean over scenarios of the margin minus the same scenario's margin unedited",
        "shift_low": "lower 95 % limit (t over scenarios, paired)",
        "shift_high": "upper 95 % limit",
        "margin_pmi": "the margin after subtracting the same answers' under an empty prompt, steered alike; empty "
        "without pmi",
        "first_order": "the shift that the gradients at dose 0 foretell",
        "slope": "mean over scenarios of the margin's slope in alpha over |alpha| <= 0.05; empty without a dose there",
        "slope_sd": "its standard deviation over scenarios",
        "anti_steerable": "share of scenarios whose slope is negative",
        "monotone": "share of scenarios whose margin rises with every dose within |alpha| <= 0.05",
        "kl": "mean KL of the next token from the unedited model's, neutral texts from their second token on, nats",
        "perplexity": "of those texts",
    },
    "steered": _CHECKPOINT
    | _DOMAIN
    | {
        "scenario_id": "a held-out scenario",
        "layer": "block after which the direction is added: the middle of the declared band",
        "margin": "its margin unedited, nats a token",
        "slope": "first-order slope of its margin in the dose, nats a token per tau",
        "slope_finite": "least-squares slope over |alpha| <= 0.05; empty without a dose there",
    },
    "slopes": _CHECKPOINT
    | _DOMAIN
    | {
        "layer": "block after whose output a direction is added; −1 is the embedding",
        "control": "none: the compassion direction, fitted on scenarios that are not scored here; else a set of unit "
        "directions: matched (random, covariance of the texts within a side), orthogonal (the same, outside the "
        "direction), shuffled (mean differences with sides swapped at random), confound: NAME",
        "n_directions": "directions in the set",
        "n_scenarios": "held-out scenarios scored",
        "slope": "first-order slope of the margin in the dose, nats a token per tau (sets: mean of |slope| over "
        "directions)",
        "slope_low": "lower 95 % limit, t over scenarios (sets: 2.5 % point over directions)",
        "slope_high": "upper 95 % limit (sets: 97.5 % point)",
        "slope_sd": "standard deviation of the slope over scenarios",
        "anti_steerable": "share of scenarios whose slope is negative",
        "effect_at_kl": "shift of the margin, to first order, at the dose that costs 0.01 nats of KL a neutral token",
        "dose_at_kl": "that dose, in tau",
        "beaten": "share of the set whose |slope| lies below the direction's slope: equal norm",
        "beaten_at_kl": "the same by effect_at_kl: equal damage",
    },
    "mediation": _EDGE
    | _DOMAIN
    | {
        "layer": "block whose output is patched: the middle of the declared band",
        "patched": "into child: h + v·v'(h_parent − h) on the same tokens; into parent: the other way",
        "control": "none: the parent's compassion direction, fitted on scenarios that are not scored; matched-N: "
        "random, with the covariance of the parent's texts within a side",
        "n_scenarios": "held-out scenarios scored",
        "recovered": "share of the step's change of the margin that the patch undoes (into parent: makes), run in "
        "full; empty for directions that were not",
        "low": "its lower 95 % limit (Fieller on the jackknife)",
        "high": "its upper 95 % limit",
        "first_order": "the same share to first order",
        "at_kl": "that, at the KL that the compassion direction's patch costs",
        "kl": "what the patch costs on the answers' next tokens, to second order, nats a token",
    },
    "receipts": _CHECKPOINT
    | {
        "identity": "content hash of everything that determined the activations",
        "weight_hash": "SHA-256 of the weights in memory after adapters and edits",
        "revision": "commit of a hub source",
        "dtype": "the model's dtype",
        "n_layers": "blocks",
        "d_model": "width of the residual stream",
        "row_budget": "tokens a packed row aimed at",
        "logit_change": "largest change of a logit that the last adapter made on the probe text",
        "hook_deviation": "largest relative difference of hooked from plain forward-hook residuals",
        "packing_deviation": "largest relative difference of packed from separately run residuals",
        "logprob_deviation": "largest difference of a log-prob from the whole model's own, nats",
    },
}
