# The conv row with the separable convolutions that the rows of MLPixer and SRB have: like with like.
_base_ = ['../_base_/tracking/sd_track.py']
model = dict(sep_conv=True)
