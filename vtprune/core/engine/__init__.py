"""The engine: everything that touches a model.

hooks      the hooks on the model's modules, in the order in which they fire; start reading here
plan       a recipe held against a model, before anything runs
prompt     what came in; flow, the state of one forward; vision, what the tower made
decide     score, allocate, select; apply, carry it out on hidden states; drafts, assisted generation
attention  the probe beside the native kernel
masks      a layer's mask for the tokens that are left
compiled   models under torch.compile; devices, models over several devices or offloaded
cache      a cache layer with a logical length; storage, where its keys and values lie
tower_stage  stages inside the vision tower; shorter, a layer on what is left; tower_exit, from images to samples
cost       FLOPs and bytes; recorder, the report
"""
