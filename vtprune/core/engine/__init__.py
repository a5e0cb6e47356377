"""The engine: everything that touches a model.

hooks      the hooks on the model's modules, in the order in which they fire; start reading here
plan       a recipe held against a model, before anything runs
layers     what each decoder layer is; heads, how many of them an attention has
prompt     what came in; flow, the state of one forward
vision     the tower's calls watched; images, what it made of each image; tower, its rows to tokens; sharing, images
           that appear twice encoded once; deepstack, vision features that enter between decoder layers
decide     score, allocate, select; apply, carry it out on hidden states; steps, its edits, to be repeated; drafts,
           assisted generation
attention  the probe beside the native kernel; replacing, methods and taps set for a while
layer_inputs  a decoder layer's arguments for the tokens that are left; masks, its mask
compiled   models under torch.compile; devices, models over several devices or offloaded
cache      a cache layer with a logical length; storage, where its keys and values lie
tower_stage  stages inside the vision tower; shorter, a layer on what is left; tower_exit, from images to samples;
             tower_faults, why a stage cannot act there
cost       FLOPs and bytes; recorder, the report
"""
