// Gives the page this pack's translations where the page forgot them.
//
// Up to frontend 1.32 the page asks for the packs' texts first and loads its own language afterwards, which replaces them: nodes of
// packs then stay English. Later pages keep them, and nothing happens here.
import { app } from '../../../scripts/app.js'
import { api } from '../../../scripts/api.js'

const NODE = 'nodeDefs.LatheSaveMesh.display_name'

function translations() {
  const provided = document.querySelector('#vue-app')?.__vue_app__?._context?.provides ?? {}
  return Object.getOwnPropertySymbols(provided).map((key) => provided[key]?.global).find((it) => it?.mergeLocaleMessage)
}

app.registerExtension({
  name: 'Lathe.Languages',
  async init() {
    const i18n = translations()
    const language = i18n?.locale?.value
    if (!language || language === 'en' || i18n.te(NODE)) return
    const texts = (await (await api.fetchApi('/i18n')).json())[language]
    const ours = Object.entries(texts?.nodeDefs ?? {}).filter(([name]) => name.startsWith('Lathe'))
    if (ours.length) i18n.mergeLocaleMessage(language, { nodeDefs: Object.fromEntries(ours), nodeCategories: texts.nodeCategories ?? {} })
  }
})
