// Warnings of the pack's nodes, as text on the node. The page shows such text when it arrives while a node runs, and keeps it for ever: here
// it goes when the node runs again, and comes back with an output from the cache.
import { app } from '../../../scripts/app.js'
import { api } from '../../../scripts/api.js'

const WIDGET = '$$node-text-preview'

const ours = (id) => {
  const node = app.graph?.getNodeById(id)
  return node?.comfyClass?.startsWith('Lathe') ? node : null
}

function forget(node) {
  const at = node.widgets?.findIndex((widget) => widget.name === WIDGET) ?? -1
  if (at < 0) return
  node.widgets[at].onRemove?.()
  node.widgets.splice(at, 1)
  node.setSize([node.size[0], node.computeSize()[1]])
}

app.registerExtension({
  name: 'Lathe.Notices',
  setup() {
    api.addEventListener('executing', ({ detail }) => {
      const node = ours(detail)
      if (node) forget(node)
    })
    api.addEventListener('executed', ({ detail }) => {
      const node = ours(detail.display_node ?? detail.node)
      const text = node && detail.output?.text?.join('\n')
      if (text) api.dispatchCustomEvent('progress_text', { nodeId: String(node.id), text, prompt_id: detail.prompt_id })
    })
  }
})
