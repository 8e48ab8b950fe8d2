module ubo.test/pause

go 1.25
