"""The scaffold of a plugin package: what `vtprune new-plugin` writes.

`names.resolve` settles what everything is called, `render.render` fills in the templates of ``template/``, and
`place.place` puts the files where they belong, all of them or none.
"""
