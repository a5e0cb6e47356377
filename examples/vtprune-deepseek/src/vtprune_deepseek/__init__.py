"""DeepSeek-VL for vtprune, and a reducer that shares dropped tokens out among the kept ones."""
