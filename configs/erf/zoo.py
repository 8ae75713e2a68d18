# Receptive fields of the papers' models by depth: every block of the plain models, every stage of the others.
study = dict(
    models=[
        "Spikformer-8-384=spikformer_8_384",
        "SDT-V1-8-384=sdtv1_8_384",
        "QKFormer-10-384=qkformer_10_384",
        "Max-Former-10-384=max_former_10_384",
        "Meta-SDT 15M=meta_sdt_15m",
        "SDT-V3-T=sdtv3_tiny",
        "SDT-V3-T MLPixer=sdtv3_tiny_mlpixer",
        "SDT-V3-T SRB=sdtv3_tiny_srb",
    ],
    layers=["stages.*"],
    num=8,
    title="Receptive fields of spiking transformers, random weights",
)
