"""The pictures of a study. Each file has a function that prepares the data of a picture, and one that draws it.

curves      accuracy against cost       types     by question type       timing       where the time goes
retention   what each layer has left    overlays  what was kept          effects  attribution of a factorial
methods     what lines are called       style     colours, shapes, files
"""
