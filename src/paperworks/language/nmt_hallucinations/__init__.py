"""Finding and repairing hallucinated translations (Guerreiro et al., 2023, arXiv 2208.05309).

Every detector gives a risk per pair of source and output, larger = more likely hallucinated: from the texts alone, from
the translation model (or a surrogate), or from other people's models. `Dehallucinator` redraws suspect outputs under
dropout and keeps the best. Use it on the outputs of a translation system before they are shown or trained on; a
memorised wrong output has a high probability, which is why several detectors stand beside each other.

>>> from paperworks.language import HallucinationScorer, Translations
>>> pairs = Translations(["Guten Tag"], ["no no no no no no no no no"])
>>> HallucinationScorer().score(pairs)["top_ngram"].tolist()
[6.0]
"""

from paperworks._lazy import attach

__getattr__, __dir__, _names = attach(
    __name__,
    {
        "Dehallucinator": "dehallucinator",
        "DetectionReport": "detection",
        "HallucinationScorer": "scorer",
        "Repairs": "dehallucinator",
        "Translations": "paperworks.data.translations",
        "alti_contributions": "alti_models",
        "alti_scorer": "dehallucinator",
        "attention_to_eos": "attention",
        "attention_transport": "transport",
        "block_contributions": "alti",
        "comet_qe": "adapters",
        "detection_report": "detection",
        "embedding_similarity": "adapters",
        "ignored_source": "attention",
        "length_ratio": "ngrams",
        "log_prob_scorer": "dehallucinator",
        "mc_dissimilarity": "sampling",
        "mc_hypotheses": "sampling",
        "mc_logprob": "logprob",
        "reference_risk": "adapters",
        "repeated_targets": "ngrams",
        "roll_out": "alti",
        "seq_logprob": "logprob",
        "source_marginals": "attention",
        "token_hallucination": "adapters",
        "top_ngram_excess": "ngrams",
        "transport_reference": "transport",
    },
)
__all__ = _names  # pyright: ignore[reportUnsupportedDunderAll]
